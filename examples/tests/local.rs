//! Examples on what needs no server.

mod run;

use std::{env, fs, process};

#[test]
fn quickstart_in_memory() {
    run::quickstart_shows_the_same("memory:", "memory");
}

#[test]
fn licences_in_memory() {
    run::licences_are_shared("memory:");
}

#[cfg(unix)]
#[test]
fn quickstart_shows_on_files_and_sockets_what_it_shows_in_memory() {
    for scheme in ["file", "socket"] {
        let folder = env::temp_dir().join(format!("tasklock-quickstart-{scheme}-{}", process::id()));
        run::quickstart_shows_the_same(&format!("{scheme}://{}", folder.display()), scheme);
        fs::remove_dir_all(folder).expect("the folder of the locks");
    }
}
