//! `repertoire bench`, as people use it.

mod foreign;
mod native;
mod run;
mod served;
