//! Tracing and metrics, installed once.
