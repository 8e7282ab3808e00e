//! A file in which processes note that they enter and leave.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
};

use tasklock::FencingToken;

/// What is done under a lock, by processes of whom some are killed.
#[derive(Clone, Debug)]
pub struct Journal(PathBuf);

impl Journal {
    /// In this file, which need not be there yet.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Journal(path.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether this process has been in.
    #[must_use]
    pub fn tells_of(&self, pid: u32) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| text.contains(&format!(" {pid} ")))
    }

    /// Nobody entered while another was in, but for those who were killed there, and tokens rose. How often it was entered
    /// in all.
    ///
    /// # Panics
    ///
    /// If two were in at once, or a token did not rise.
    #[must_use]
    pub fn check(&self, killed: &HashSet<u32>) -> usize {
        let text = fs::read_to_string(&self.0).expect("a journal");
        let (mut inside, mut last, mut entries) = (None, 0, 0);
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, pid, token] = words[..] else { panic!("{line}") };
            let (pid, token): (u32, u64) = (pid.parse().expect("a number"), token.parse().expect("a number"));
            if what == "enter" {
                assert!(inside.is_none_or(|other| killed.contains(&other)), "{line}, while {inside:?} was in");
                assert!(token > last, "{line}, after token {last}");
                (inside, last, entries) = (Some(pid), token, entries + 1);
            } else {
                assert_eq!(inside.take(), Some(pid), "{line}, and somebody else was in");
            }
        }
        entries
    }

    pub(super) fn enter(&self, token: FencingToken) -> io::Result<()> {
        self.note("enter", token)
    }

    pub(super) fn leave(&self, token: FencingToken) -> io::Result<()> {
        self.note("leave", token)
    }

    fn note(&self, what: &str, token: FencingToken) -> io::Result<()> {
        let line = format!("{what} {} {token}\n", process::id());
        OpenOptions::new().append(true).create(true).open(&self.0)?.write_all(line.as_bytes())
    }
}
