//! The registry alone, over packages whose reader is scripted.

mod leases;
mod placed;
mod publications;
mod store;
mod toy;
