//! What activities share: values registered with the worker by type.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::activity::{Extract, Requirement, Task};
use crate::failure::Failure;

/// A value that was given to [`Worker::state`](crate::Worker::state): a client, a pool, settings. It is shared, not
/// copied, and dereferences to the value.
///
/// ```
/// # use stagepost::{State, activity, Failure};
/// struct Prices { per_item_cents: u64 }
///
/// #[activity]
/// async fn quote(prices: State<Prices>, items: u64) -> Result<u64, Failure> {
///     Ok(items * prices.per_item_cents)
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// // In a test the function is called like any other.
/// assert_eq!(quote(State::new(Prices { per_item_cents: 250 }), 4).await.unwrap(), 1000);
/// # }
/// ```
pub struct State<T: ?Sized>(pub Arc<T>);

impl<T> State<T> {
    /// Wraps a value, for a call in a test.
    pub fn new(value: T) -> State<T> {
        State(Arc::new(value))
    }
}

impl<T: ?Sized> Clone for State<T> {
    fn clone(&self) -> State<T> {
        State(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized + Send + Sync + 'static> Extract for State<T> {
    fn require(requirements: &mut Vec<Requirement>) {
        requirements.push(Requirement { type_id: TypeId::of::<T>(), type_name: type_name::<T>() });
    }

    fn extract(task: &Task) -> Result<State<T>, Failure> {
        // The worker has checked the requirements before it started; a test that calls `Activity::run` has not.
        task.states.get().map(State).ok_or_else(|| {
            Failure::new(
                stagepost_protocol::error_names::ACTIVITY_FAILED,
                format!("no state of type {} was registered with the worker", type_name::<T>()),
            )
        })
    }
}

/// The values by type.
#[derive(Default)]
pub(crate) struct States {
    /// Each an `Arc<T>` under the id of `T`.
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl States {
    pub(crate) fn insert<T: ?Sized + Send + Sync + 'static>(&mut self, value: Arc<T>) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    pub(crate) fn get<T: ?Sized + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref::<Arc<T>>().cloned()
    }

    pub(crate) fn satisfies(&self, requirement: &Requirement) -> bool {
        self.values.contains_key(&requirement.type_id)
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.values.len())
    }
}
