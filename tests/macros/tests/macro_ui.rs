//! What the macros accept and what they say about what they don't. To renew the messages after a change, run with
//! `TRYBUILD=overwrite` and read the difference.

#[test]
fn messages() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
