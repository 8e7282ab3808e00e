//! Addresses that name several hosts, which no URL does.

/// `scheme://user@a:1,b:2/path` as the URL of its first host, and the others as they are written. Others than the first
/// that are empty are kept, to be refused by whoever knows what they are for.
pub fn split_hosts(text: &str) -> (String, Vec<String>) {
    let Some(start) = text.find("://").map(|at| at + 3) else { return (text.to_owned(), Vec::new()) };
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    // Whatever a password contains, hosts contain no `@`.
    let hosts = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut all = text[hosts..end].split(',');
    let first = all.next().unwrap_or_default();
    (format!("{}{first}{}", &text[..hosts], &text[end..]), all.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_are_split() {
        for (text, first, others) in [
            ("memory:a,b", "memory:a,b", &[][..]),
            ("redis://h:1/0?prefix=a,b", "redis://h:1/0?prefix=a,b", &[]),
            ("x://a,b:2,[::1]:3/0?p=1,2", "x://a/0?p=1,2", &["b:2", "[::1]:3"]),
            ("x://u,s:p,w@a:1,b", "x://u,s:p,w@a:1", &["b"]),
            ("x://a,?q", "x://a?q", &[""]),
            ("x://", "x://", &[]),
        ] {
            let (url, rest) = split_hosts(text);
            assert_eq!(
                (url.as_str(), rest.as_slice()),
                (first, others.iter().map(|s| s.to_string()).collect::<Vec<_>>().as_slice()),
                "{text}"
            );
        }
    }
}
