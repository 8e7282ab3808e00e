//! The program of `tasklock_tests::processes::Worker`.

fn main() -> std::process::ExitCode {
    tasklock_tests::processes::program::main()
}
