//! `simulate`: histories from seeds, until a promise breaks.

fn main() -> std::process::ExitCode {
    arbiterq_tests::sim::command::main()
}
