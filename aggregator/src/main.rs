//! The program's entry; everything is in the library.

fn main() -> std::process::ExitCode {
    rollcall_aggregator::cli::run()
}
