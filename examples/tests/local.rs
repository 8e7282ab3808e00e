//! The example `quickstart` on what needs no server.

mod quickstart;

use std::{env, fs, process};

#[test]
fn quickstart_in_memory() {
    quickstart::shows_the_same("memory:", "memory");
}

#[cfg(unix)]
#[test]
fn quickstart_shows_on_files_and_sockets_what_it_shows_in_memory() {
    for scheme in ["file", "socket"] {
        let folder = env::temp_dir().join(format!("tasklock-quickstart-{scheme}-{}", process::id()));
        quickstart::shows_the_same(&format!("{scheme}://{}", folder.display()), scheme);
        fs::remove_dir_all(folder).expect("the folder of the locks");
    }
}
