//! Compute kernels. Every kernel computes a row with one order of summation, whatever else is in the batch:
//! a request's answer is the same, to the bit, alone and among others.

pub mod cpu;
pub mod cuda;
