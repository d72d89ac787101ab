//! The registry alone, over packages whose reader is scripted.

mod crash;
mod leases;
mod placed;
mod publications;
mod store;
mod storm;
mod toy;
