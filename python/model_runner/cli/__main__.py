"""`python -m model_runner.cli`, for a source tree that is not installed."""

from model_runner.cli import main

main(prog_name="model-runner")
