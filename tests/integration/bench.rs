//! `repertoire bench`, as people use it.

mod foreign;
mod impatient;
mod in_process;
mod made;
mod native;
mod run;
mod served;
mod steered;
