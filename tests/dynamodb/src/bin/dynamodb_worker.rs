//! The program of `tasklock_tests::processes::Worker`, with locks in DynamoDB.

fn main() -> std::process::ExitCode {
    tasklock_tests::processes::program::main()
}
