//! Machines with a distributed Map of whose items some fail: as many as are tolerated, or more. Of the latter some are
//! redriven, and go well then.

use serde_json::{Map, Value, json};
use stagepost_protocol::{MapRun, MapRunStatus, error_names};

use super::{Endings, FLAKY, Generator, LOST, Machine, Plan, going, step};

/// How the Map Run of a machine must end.
#[derive(Debug)]
pub(crate) struct Expected {
    status: MapRunStatus,
    redrives: u32,
    /// Its child executions, by the number of their items.
    good: Vec<u64>,
    failed: Vec<u64>,
}

/// What becomes of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Good,
    /// It fails until its execution is redriven.
    Redriven,
    /// It fails each time.
    Doomed,
}

/// What becomes of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Tolerated,
    Redriven,
    NotTolerated,
}

impl Generator<'_> {
    /// A machine that is a distributed Map.
    pub(super) fn map_run(&mut self, machine: String) -> Machine {
        let rng = self.rng;
        let course = rng.one_of(&[Course::Tolerated, Course::Redriven, Course::NotTolerated]);
        let batch = 1 + rng.below(3);
        let mut children: Vec<Item> = (0..1 + rng.below(6)).map(|_| self.item(course)).collect();
        match course {
            Course::Tolerated => {}
            Course::Redriven => children.push(Item::Redriven),
            Course::NotTolerated => children.push(Item::Doomed),
        }
        rng.shuffle(&mut children);
        // The last one may have fewer items.
        let last = 1 + rng.below(batch);
        let sizes: Vec<u64> =
            (0..children.len()).map(|i| if i + 1 == children.len() { last } else { batch }).collect();
        let of = |wanted: &[Item]| -> Vec<u64> {
            let both = children.iter().zip(&sizes);
            both.filter(|(item, _)| wanted.contains(item)).map(|(_, size)| *size).collect()
        };
        let (good, failed) = (of(&[Item::Good, Item::Redriven]), of(&[Item::Doomed]));
        let (salt, items) = (self.salt(), self.items(&children, &sizes));
        let outputs = match course {
            Course::NotTolerated => Vec::new(),
            Course::Tolerated | Course::Redriven => {
                // The first item of each decides.
                let firsts = sizes.iter().scan(0, |at, size| Some(std::mem::replace(at, *at + *size)));
                let result = |(item, first): (&Item, u64)| match item {
                    Item::Doomed => json!({ "Status": "FAILED", "Error": FLAKY, "Cause": "as it was told" }),
                    Item::Good | Item::Redriven => step(&json!(first), salt),
                };
                vec![children.iter().zip(firsts).map(result).collect()]
            }
        };
        let mut map = self.distributed(batch, salt);
        let (total, lost) = (sizes.iter().sum::<u64>(), failed.iter().sum::<u64>());
        let tolerated = if course == Course::NotTolerated { rng.below(lost) } else { lost };
        if rng.one_in(2) {
            map["ToleratedFailureCount"] = json!(tolerated);
        } else {
            // As many as these, and not one more: there are fewer than a hundred.
            map["ToleratedFailurePercentage"] = json!((tolerated * 100).div_ceil(total));
        }
        let (list, over) = (self.name(), self.name());
        let states = json!({
            list.clone(): { "Type": "Pass", "Result": { "items": items }, "Next": over },
            over: going(map, None),
        });
        let (status, failed_with, plan) = match course {
            Course::Tolerated => (MapRunStatus::Succeeded, None, Plan::Run),
            Course::Redriven => (MapRunStatus::Succeeded, None, Plan::Redrive),
            Course::NotTolerated => {
                let plan = rng.one_of(&[Plan::Run, Plan::Redrive]);
                (MapRunStatus::Failed, Some(error_names::EXCEED_TOLERATED_FAILURE_THRESHOLD), plan)
            }
        };
        let redrives = u32::from(plan == Plan::Redrive);
        Machine {
            name: machine,
            definition: json!({ "StartAt": list, "States": states }),
            input: json!(0),
            plan,
            signals: Vec::new(),
            endings: Endings { outputs, failed: failed_with, ..Endings::default() },
            map_run: Some(Expected { status, redrives, good, failed }),
        }
    }

    fn item(&self, course: Course) -> Item {
        match self.rng.below(6) {
            0 => Item::Doomed,
            1 | 2 if course == Course::Redriven => Item::Redriven,
            _ => Item::Good,
        }
    }

    /// The items, each with what becomes of its child execution.
    fn items(&self, children: &[Item], sizes: &[u64]) -> Vec<Value> {
        let kinds = children.iter().zip(sizes).flat_map(|(item, size)| (0..*size).map(move |_| *item));
        let item = |(n, item): (usize, Item)| {
            json!({ "v": n, "fails": if item == Item::Doomed { 1_000_000 } else { 0 },
                "redriven": item == Item::Redriven })
        };
        kinds.enumerate().map(item).collect()
    }

    fn distributed(&mut self, batch: u64, salt: u64) -> Value {
        // Items come alone or as a batch.
        let batched = batch > 1;
        let item = if batched { "$.Items[0]" } else { "$" };
        let mut work = json!({ "salt": salt, "millis": self.rng.one_of(&[0, 100, 1_200]), "beats": false });
        for member in ["v", "fails", "redriven", "root"] {
            work[format!("{member}.$")] = json!(format!("{item}.{member}"));
        }
        let mut task = self.activity();
        task["Parameters"] = work;
        task["Retry"] =
            json!([{ "ErrorEquals": LOST, "IntervalSeconds": 1, "MaxAttempts": 1_000, "BackoffRate": 1.0 }]);
        let name = self.name();
        let mut states = Map::new();
        states.insert(name.clone(), going(task, None));
        let mut map = json!({
            "Type": "Map",
            "Label": self.name(),
            "ItemsPath": "$.items",
            "ItemSelector": {
                "v.$": "$$.Map.Item.Value.v", "fails.$": "$$.Map.Item.Value.fails",
                "redriven.$": "$$.Map.Item.Value.redriven", "root.$": "$$.Execution.Id",
            },
            "MaxConcurrency": self.rng.below(4),
            "ItemProcessor": {
                "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
                "StartAt": name, "States": states,
            },
        });
        if batched {
            map["ItemBatcher"] = json!({ "MaxItemsPerBatch": batch });
        }
        map
    }
}

impl Expected {
    /// Checks how the Map Run has ended.
    pub(crate) fn check(&self, run: &MapRun) -> Result<(), String> {
        let sums = |sizes: &[u64]| (sizes.len() as u64, sizes.iter().sum::<u64>());
        let ((good, good_items), (failed, failed_items)) = (sums(&self.good), sums(&self.failed));
        let all = [(&run.executions, good, failed), (&run.items, good_items, failed_items)];
        let right = all.iter().all(|(counts, good, failed)| {
            let whole = counts.total() == good + failed && counts.running == 0 && counts.pending_redrive == 0;
            whole
                && match self.status {
                    MapRunStatus::Succeeded => (counts.succeeded, counts.failed) == (*good, *failed),
                    // The others were stopped, or never began.
                    _ => counts.succeeded <= *good && (1..=*failed).contains(&counts.failed),
                }
        });
        if !right || run.status != self.status || run.redrive_count != self.redrives {
            return Err(format!("the Map Run has come to {run:?} instead of {self:?}"));
        }
        Ok(())
    }
}
