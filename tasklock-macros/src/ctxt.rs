//! Collects every mistake before giving up: one compile shows them all.

use proc_macro2::Span;

/// The errors found so far.
#[derive(Default)]
pub(crate) struct Ctxt {
    errors: Vec<syn::Error>,
}

impl Ctxt {
    pub(crate) fn error(&mut self, span: Span, message: impl std::fmt::Display) {
        self.errors.push(syn::Error::new(span, message));
    }

    pub(crate) fn push(&mut self, error: syn::Error) {
        self.errors.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// All errors as one, if there were any.
    pub(crate) fn finish(self) -> syn::Result<()> {
        let combined = self.errors.into_iter().reduce(|mut all, next| {
            all.combine(next);
            all
        });
        combined.map_or(Ok(()), Err)
    }
}

/// `, did you mean …?` when a candidate is close enough to be a slip of the keyboard, else nothing.
pub(crate) fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let tolerated = (written.chars().count() / 3).clamp(1, 3);
    let closest = candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&written.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            // A slip that replaces the whole word is no slip.
            *distance <= tolerated && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance);
    closest.map_or_else(String::new, |(_, candidate)| format!(", did you mean `{candidate}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        let names = ["team", "force", "x"];
        assert_eq!(did_you_mean("tem", names), ", did you mean `team`?");
        assert_eq!(did_you_mean("taem", names), ", did you mean `team`?");
        assert_eq!(did_you_mean("Team", names), ", did you mean `team`?");
        assert_eq!(did_you_mean("document", names), "");
        assert_eq!(did_you_mean("y", names), "");
    }

    #[test]
    fn keeps_every_error() {
        let mut cx = Ctxt::default();
        cx.error(Span::call_site(), "one");
        cx.error(Span::call_site(), "two");
        let error = cx.finish().unwrap_err();
        assert_eq!(error.into_iter().count(), 2);
        assert!(Ctxt::default().finish().is_ok());
    }
}
