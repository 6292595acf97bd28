//! One subscriber, as a state machine: values in, values out; time is an argument. `phase` has its states and their
//! diagram.

mod consumer;
mod deliver;
mod finish;
mod hold;
mod phase;
mod plan;
mod silence;
mod stall;
mod terms;
mod topic_ends;
mod visit;

pub use consumer::Taken;
pub use hold::Waking;
pub use phase::Subscriber;
pub use plan::{Fetch, Fetched, Plan, Snapshot};
pub use silence::Due;
pub use terms::{BrokerWakes, Limit, Membership, Terms, Times, wake_brokers};
