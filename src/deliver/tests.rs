//! Delivery on a real PostgreSQL, to real receivers.
