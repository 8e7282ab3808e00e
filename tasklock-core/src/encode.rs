//! How values become part of a key. The format is frozen: two services that differ in it would not exclude each other.
//!
//! - A value keeps ASCII letters and digits, `-` `_` `.` `~` `@`, and everything from U+00A0 up; every other byte is
//!   `%XX`. So no value contains a separator.
//! - A parameter is `name=value`, several are joined by `,`; a scope stands in front with `/`.
//! - A struct is its chosen fields in parentheses: `(tenant=acme;doc=7)`. Several values are joined by `;`.

use std::fmt::{self, Display, Write};

use crate::{InvalidKey, Key};

/// A value that can be part of a key: whatever implements [`Display`], and structs that derive `LockKey`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot name a lock",
    label = "neither `Display` nor `LockKey`",
    note = "implement `Display` for it, put `#[derive(LockKey)]` on it, or name one of its fields: \"param.field\""
)]
pub trait LockKey {
    /// Writes this value: either one [`value`](KeyWriter::value), or [`field`](KeyWriter::field)s.
    fn write_key(&self, out: &mut KeyWriter<'_>);
}

impl<T: Display + ?Sized> LockKey for T {
    fn write_key(&self, out: &mut KeyWriter<'_>) {
        out.value(self);
    }
}

/// Where a [`LockKey`] writes itself.
#[derive(Debug)]
pub struct KeyWriter<'a> {
    out: &'a mut String,
    items: usize,
    fields: bool,
}

impl KeyWriter<'_> {
    /// Writes one value, escaped.
    pub fn value(&mut self, value: &(impl Display + ?Sized)) {
        if self.items > 0 {
            self.out.push(';');
        }
        self.items += 1;
        // A `Display` that fails leaves what it wrote; the key is then still the same for the same value.
        let _ = write!(Escaped(self.out), "{value}");
    }

    /// Writes one field of a struct.
    pub fn field(&mut self, name: &str, value: &(impl LockKey + ?Sized)) {
        self.out.push(if self.items > 0 { ';' } else { '(' });
        self.fields |= self.items == 0;
        self.items += 1;
        let _ = Escaped(self.out).write_str(name);
        self.out.push('=');
        write_value(self.out, value);
    }
}

fn write_value(out: &mut String, value: &(impl LockKey + ?Sized)) {
    let mut writer = KeyWriter { out, items: 0, fields: false };
    value.write_key(&mut writer);
    if writer.fields {
        out.push(')');
    }
}

/// Percent-escapes what is written through it.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '@' | '\u{a0}'..) {
                self.0.push(c);
            } else {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    write!(self.0, "%{byte:02X}")?;
                }
            }
        }
        Ok(())
    }
}

/// Builds the key of one call of a `#[synchronized]` function.
#[derive(Debug, Default)]
#[must_use]
pub struct KeyBuilder {
    text: String,
    params: bool,
}

impl KeyBuilder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `scope/` in front.
    pub fn scope(mut self, scope: &str) -> Self {
        write_value(&mut self.text, scope);
        self.text.push('/');
        self
    }

    /// `name=value`, after a comma if it is not the first.
    pub fn param(mut self, name: &str, value: &(impl LockKey + ?Sized)) -> Self {
        if self.params {
            self.text.push(',');
        }
        self.params = true;
        let _ = Escaped(&mut self.text).write_str(name);
        self.text.push('=');
        write_value(&mut self.text, value);
        self
    }

    /// Text of a template, as it stands.
    pub fn literal(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// A value in a template.
    pub fn value(mut self, value: &(impl LockKey + ?Sized)) -> Self {
        write_value(&mut self.text, value);
        self
    }

    /// The key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if it is empty or too long.
    pub fn finish(self) -> Result<Key, InvalidKey> {
        Key::new(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Doc {
        tenant: &'static str,
        number: u32,
    }

    impl LockKey for Doc {
        fn write_key(&self, out: &mut KeyWriter<'_>) {
            out.field("tenant", self.tenant);
            out.field("number", &self.number);
        }
    }

    fn param(name: &str, value: &(impl LockKey + ?Sized)) -> String {
        KeyBuilder::new().param(name, value).finish().unwrap().as_str().to_owned()
    }

    /// Frozen: a change here lets two versions of a service in at once.
    #[test]
    fn golden() {
        assert_eq!(param("team", "acme"), "team=acme");
        assert_eq!(param("team", "a,b=c/d%"), "team=a%2Cb%3Dc%2Fd%25");
        assert_eq!(param("team", "Zoë @ 日本-1.2_3~"), "team=Zoë%20@%20日本-1.2_3~");
        assert_eq!(param("team", "x\u{85}\n"), "team=x%C2%85%0A");
        assert_eq!(param("req.id", &7_u64), "req.id=7");
        assert_eq!(param("team", ""), "team=");
        let doc = Doc { tenant: "a;b", number: 7 };
        assert_eq!(param("doc", &doc), "doc=(tenant=a%3Bb;number=7)");
        let key = KeyBuilder::new().scope("my::module").param("a", "1").param("b", "2").finish().unwrap();
        assert_eq!(key.as_str(), "my%3A%3Amodule/a=1,b=2");
        let key = KeyBuilder::new().literal("team:").value("acme").literal(":").value(&7).finish().unwrap();
        assert_eq!(key, Key::new("team:acme:7").unwrap());
    }
}
