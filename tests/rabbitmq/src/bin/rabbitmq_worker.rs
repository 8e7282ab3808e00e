//! The program of `tasklock_tests::processes::Worker`, with locks in RabbitMQ.

fn main() -> std::process::ExitCode {
    tasklock_tests::processes::program::main()
}
