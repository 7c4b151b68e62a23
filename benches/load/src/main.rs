//! The two ends of a measurement: a synthetic engine, and the load that is put on it through a proxy.

mod address;
mod engine;
mod http;
mod load;
mod transcript;

#[cfg(test)]
mod tests;

use clap::{Parser, Subcommand};

/// A synthetic llama-server, and a load generator that knows what it answers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer like llama-server, at a programmable pace. Prints its addresses as one line of JSON.
    Engine(engine::Options),
    /// Whole JSON answers in a closed loop. Prints what was measured as JSON.
    Json(load::json::Options),
    /// Concurrent SSE streams. Prints what was measured as JSON.
    Sse(load::sse::Options),
}

fn main() -> anyhow::Result<()> {
    // One thread: the load must cost less than what it measures, and the machine may have two cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    match Arguments::parse().command {
        Command::Engine(options) => tasks.block_on(&runtime, engine::run(options)),
        Command::Json(options) => print(&tasks.block_on(&runtime, load::json::run(options))?),
        Command::Sse(options) => print(&tasks.block_on(&runtime, load::sse::run(options))?),
    }
}

fn print<T: serde::Serialize>(report: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(report)?);
    Ok(())
}
