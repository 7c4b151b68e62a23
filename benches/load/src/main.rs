//! Two ends of a measurement: load on a server that speaks OpenAI's API, and a synthetic engine to put behind one.

mod address;
mod engine;
mod http;
mod limits;
mod load;
mod random;
mod transcript;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use load::report::Report;

/// Puts load on servers of language models and on what stands before them, and measures what its users would feel.
///
/// `chat` is for any OpenAI-compatible server. `json` and `sse` are for a synthetic engine (`engine`) with or without
/// a proxy before it: they know every byte of its answers and compare it.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Chats with any OpenAI-compatible server: tokens a second, time to the first token, time between tokens.
    Chat(Box<load::chat::Options>),
    /// Whole answers of the synthetic engine, every byte compared. Prints JSON.
    Json(Box<load::json::Options>),
    /// Streams of the synthetic engine, every byte compared. Prints JSON.
    Sse(Box<load::sse::Options>),
    /// A synthetic llama-server, with programmable pace and faults. Prints its addresses as one line of JSON.
    #[command(after_help = engine::FIELDS)]
    Engine(engine::Options),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    limits::raise_open_files();
    run(command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // One thread: the load must cost less than what it measures, and the machine may have two cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    match command {
        Command::Chat(options) => {
            let text = !options.json;
            let report = tasks.block_on(&runtime, load::chat::run(*options))?;
            print(&report, text)?;
            // For scripts: a load of which nothing came is no measurement.
            Ok(if report.requests == Some(0) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Command::Json(options) => {
            let text = options.target.text;
            print(&tasks.block_on(&runtime, load::json::run(*options))?, text)
        }
        Command::Sse(options) => {
            let text = options.target.text;
            print(&tasks.block_on(&runtime, load::sse::run(*options))?, text)
        }
        Command::Engine(options) => {
            tasks.block_on(&runtime, engine::run(options)).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn print(report: &Report, text: bool) -> anyhow::Result<ExitCode> {
    if text {
        print!("{}", report.text());
    } else {
        println!("{}", serde_json::to_string_pretty(report)?);
    }
    Ok(ExitCode::SUCCESS)
}
