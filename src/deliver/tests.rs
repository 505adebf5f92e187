//! Delivery on a real PostgreSQL, to real receivers.

mod behaviour;
mod recovery;
mod world;
