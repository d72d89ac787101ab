//! What an operator may set, and its defaults (defaults < file < environment < flags).
