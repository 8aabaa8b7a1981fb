//! What an activity is to a worker: a name, options, what it requires, and a function from a task to a result.
//! `#[activity]` writes the implementation; nobody else needs to.

use std::any::TypeId;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use stagepost_protocol::{Namespace, Payload, error_names, limits::PAYLOAD_BYTES_MAX, topology::Topology};

use crate::calls::{CallRun, CallTask};
use crate::context::Context;
use crate::failure::{ActivityError, Failure};
use crate::state::States;

/// What running a task gives: the output's JSON, or why there is none.
pub type Run = Pin<Box<dyn Future<Output = Result<Payload, Failure>> + Send>>;

/// An activity: implemented by `#[activity]` for the type that it adds beside your function, under the same name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an activity",
    label = "not an activity",
    note = "put `#[stagepost::activity]` on the function and name the function here, as in `activities![charge_card]`"
)]
pub trait Activity: 'static {
    /// Its name: what `Resource` names in a definition, `arn:aws:states:REGION:ACCOUNT:activity:NAME`.
    const NAME: &'static str;
    /// What its attribute says.
    const OPTIONS: Options;

    /// The state that it takes; the worker checks it before it starts.
    fn requirements() -> Vec<Requirement>;

    /// Decodes the input, runs the function, encodes the output.
    fn run(task: Task) -> Run;

    /// It, as a worker registers it.
    fn registration() -> Registration
    where
        Self: Sized,
    {
        Registration::of::<Self>()
    }
}

/// The options of `#[activity(…)]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Its queue is `stagepost.activity.QUEUE`. Default: the activity's name.
    pub queue: Option<&'static str>,
    /// The worker ends an attempt that runs longer with `States.Timeout`. Default: the definition's
    /// `TimeoutSeconds` alone.
    pub timeout: Option<Duration>,
    /// The worker ends an attempt that sends no heartbeat for so long with `States.HeartbeatTimeout`. Default: the
    /// definition's `HeartbeatSeconds` alone.
    pub heartbeat: Option<Duration>,
    /// How many attempts of it run at a time in one worker. Default: the worker's setting.
    pub concurrency: Option<u16>,
    /// It may run twice without harm.
    pub idempotent: bool,
    /// It blocks, and so runs on a thread for that.
    pub blocking: bool,
}

/// A type of state that an activity takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
}

/// One attempt's work, as an activity gets it.
#[derive(Debug)]
pub struct Task {
    pub(crate) context: Context,
    pub(crate) states: Arc<States>,
    pub(crate) input: Payload,
}

/// A parameter that the worker fills: [`Context`] and [`State`](crate::State).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a parameter that the worker can fill",
    label = "neither `stagepost::Context` nor `stagepost::State<T>` with a `T` that is `Send + Sync`",
    note = "state is shared between threads: `T` in `State<T>` must be `Send + Sync + 'static`",
    note = "the input of an activity is its last parameter and must not be named `Context` or `State`"
)]
pub trait Extract: Sized {
    /// Adds what it needs of the worker.
    fn require(requirements: &mut Vec<Requirement>);
    /// Takes itself out of the task.
    fn extract(task: &Task) -> Result<Self, Failure>;
}

impl Extract for Context {
    fn require(_: &mut Vec<Requirement>) {
        // Every task has a context.
    }

    fn extract(task: &Task) -> Result<Context, Failure> {
        Ok(task.context.clone())
    }
}

/// A type that can be the input of an activity: everything that implements `serde::Deserialize` and owns its data.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the input of an activity",
    label = "cannot be read from the task's JSON",
    note = "add `#[derive(serde::Deserialize)]` to it; it must own its data (no borrowed fields) and be `Send`",
    note = "if it is an alias of an extractor, write `Context` or `State<T>` itself: the macro sees names, not types"
)]
pub trait Input: DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + Send + 'static> Input for T {}

/// A type that can be the output of an activity: everything that implements `serde::Serialize`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the output of an activity",
    label = "cannot be written as JSON",
    note = "add `#[derive(serde::Serialize)]` to it; an activity without an output returns `Result<(), _>`"
)]
pub trait Output: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Output for T {}

/// What an activity returns: a `Result`.
#[diagnostic::on_unimplemented(
    message = "an activity returns a `Result`, not `{Self}`",
    label = "not a `Result`",
    note = "return `Result<{Self}, stagepost::Failure>`, or an error type of your own that derives `ActivityError`"
)]
pub trait ActivityResult {
    /// Its output.
    type Output;
    /// Its error.
    type Error;
    /// Itself.
    fn into_result(self) -> Result<Self::Output, Self::Error>;
}

impl<T, E> ActivityResult for Result<T, E> {
    type Output = T;
    type Error = E;

    fn into_result(self) -> Result<T, E> {
        self
    }
}

/// Reads the input of a task.
pub fn input<T: Input>(task: &Task) -> Result<T, Failure> {
    task.input.read().map_err(|error| {
        let activity = task.context.activity();
        Failure::new(
            error_names::INVALID_INPUT,
            format!("the input does not fit the activity '{activity}': {error}"),
        )
    })
}

/// Encodes what an activity returned.
pub fn encode<T: Output, E: ActivityError>(returned: Result<T, E>) -> Result<Payload, Failure> {
    let output = returned.map_err(|error| Failure::of(&error))?;
    let payload = Payload::from_serialize(&output).map_err(|error| {
        Failure::new(error_names::INVALID_OUTPUT, format!("the output cannot be written as JSON: {error}"))
    })?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        let cause = format!("the output has {} bytes, more than {PAYLOAD_BYTES_MAX}", payload.len());
        return Err(Failure::new(error_names::DATA_LIMIT_EXCEEDED, cause));
    }
    Ok(payload)
}

/// Runs a blocking activity on a thread for that; a panic goes on here.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(returned) => returned,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels a blocking task; then this future is dropped too.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Stands where a mistake in the attribute left nothing to run; such a program does not compile.
pub fn dummy() -> Run {
    Box::pin(std::future::pending())
}

/// An activity as a worker knows it. Made by [`activities!`](crate::activities) and [`Activities`].
#[derive(Clone)]
pub struct Registration {
    pub(crate) name: &'static str,
    pub(crate) options: Options,
    pub(crate) requirements: Vec<Requirement>,
    pub(crate) work: Work,
}

/// What a registration does with a task.
#[derive(Clone)]
pub(crate) enum Work {
    /// Runs an activity.
    Activity(Arc<dyn Fn(Task) -> Run + Send + Sync>),
    /// Calls services: the tasks of the connectors' queue.
    Calls(Arc<dyn Fn(CallTask) -> CallRun + Send + Sync>),
}

impl Registration {
    /// Of the type that `#[activity]` made.
    pub fn of<A: Activity>() -> Registration {
        Registration::new(A::NAME, A::OPTIONS, A::requirements(), A::run)
    }

    /// Of its parts.
    pub(crate) fn new(
        name: &'static str,
        options: Options,
        requirements: Vec<Requirement>,
        run: impl Fn(Task) -> Run + Send + Sync + 'static,
    ) -> Registration {
        Registration { name, options, requirements, work: Work::Activity(Arc::new(run)) }
    }

    /// The tasks of the connectors' queue.
    pub(crate) fn of_calls(run: impl Fn(CallTask) -> CallRun + Send + Sync + 'static) -> Registration {
        let options = Options::default();
        Registration {
            name: "connectors",
            options,
            requirements: Vec::new(),
            work: Work::Calls(Arc::new(run)),
        }
    }

    /// The activity's name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// What its attribute says.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The part of its queue's name that stands for it.
    pub(crate) fn queue(&self) -> &'static str {
        self.options.queue.unwrap_or(self.name)
    }

    /// The queue that its tasks lie on.
    pub(crate) fn queue_name(&self, topology: &Topology, namespace: &Namespace) -> String {
        match self.work {
            Work::Activity(_) => topology.activity(namespace, self.queue()),
            Work::Calls(_) => topology.connectors(),
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A [`Registration`] of its parts, for `#[activity]` on an impl block.
pub fn registration(
    name: &'static str,
    options: Options,
    requirements: Vec<Requirement>,
    run: impl Fn(Task) -> Run + Send + Sync + 'static,
) -> Registration {
    Registration::new(name, options, requirements, run)
}

/// A type whose methods are activities: implemented by `#[activity]` on its impl block, of which a type has one.
///
/// The attribute has the name of that on functions, for Rust lets no attribute stand beside a macro of the same name,
/// and [`activities!`](crate::activities) is one.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use stagepost::{Activities, Context, Failure, Worker, activity};
///
/// struct Counter { total: AtomicU64 }
///
/// #[activity]
/// impl Counter {
///     /// Adds to the total.
///     #[activity(timeout = "5s", idempotent)]
///     async fn add(&self, cx: Context, amount: u64) -> Result<u64, Failure> {
///         cx.check_cancelled()?;
///         Ok(self.total.fetch_add(amount, Ordering::Relaxed) + amount)
///     }
///
///     #[activity(name = "reset-total", blocking)]
///     fn reset(self: Arc<Self>) -> Result<(), Failure> {
///         self.total.store(0, Ordering::Relaxed);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let counter = Arc::new(Counter { total: AtomicU64::new(0) });
/// let worker = Worker::connect("amqp://localhost").register(Arc::clone(&counter)); // or register(counter) by value
/// # let _ = worker;
///
/// // The methods stay what they were: a test calls them.
/// assert_eq!(counter.add(Context::for_test().build(), 5).await.unwrap(), 5);
/// let names: Vec<_> = counter.registrations().iter().map(|r| r.name().to_owned()).collect();
/// assert_eq!(names, ["add", "reset-total"]);
/// # }
/// ```
pub trait Activities: Send + Sync + 'static {
    /// Its activities, each with the value.
    fn registrations(self: Arc<Self>) -> Vec<Registration>;
}

/// What [`Worker::register`](crate::Worker::register) takes: `activities![…]`, or a value (or an `Arc` of one) whose
/// methods are activities.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no activities to register",
    label = "no activities",
    note = "functions with `#[activity]` are registered by name, as in `register(activities![charge_card])`",
    note = "a value is registered if the impl block of its type has `#[activity]`, and its activities too"
)]
pub trait Register {
    /// The activities.
    fn into_registrations(self) -> Vec<Registration>;
}

impl<const N: usize> Register for [Registration; N] {
    fn into_registrations(self) -> Vec<Registration> {
        self.into()
    }
}

impl Register for Vec<Registration> {
    fn into_registrations(self) -> Vec<Registration> {
        self
    }
}

impl<T: Activities> Register for Arc<T> {
    fn into_registrations(self) -> Vec<Registration> {
        self.registrations()
    }
}

#[diagnostic::do_not_recommend]
impl<T: Activities> Register for T {
    fn into_registrations(self) -> Vec<Registration> {
        Arc::new(self).registrations()
    }
}

/// The registrations of activities, for [`Worker::register`](crate::Worker::register): functions with
/// `#[activity]`, named as they are called.
///
/// ```
/// # mod payments { use stagepost::{activity, Failure};
/// #   #[activity] pub async fn charge_card(cents: u64) -> Result<(), Failure> { let _ = cents; Ok(()) }
/// #   #[activity] pub async fn refund_card(cents: u64) -> Result<(), Failure> { let _ = cents; Ok(()) } }
/// use payments::refund_card;
///
/// let registrations = stagepost::activities![payments::charge_card, refund_card];
/// assert_eq!(registrations[0].name(), "charge_card");
/// ```
#[macro_export]
macro_rules! activities {
    ($($activity:ty),* $(,)?) => {
        [$(<$activity as $crate::Activity>::registration()),*]
    };
}
