//! Compiled definitions, by their id. A definition never changes, so neither does an entry.

use std::{collections::HashMap, sync::Arc};

use stagepost_asl::StateMachine;
use stagepost_store::{Reader, Store};

/// At most so many compiled definitions are kept; the rest is compiled again when needed.
const DEFINITIONS_MAX: usize = 1_000;

/// Why there is no compiled definition.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] stagepost_store::Error),
    #[error("the definition '{0}' is not in the store")]
    Missing(String),
    #[error("the definition '{id}' cannot be used by this version: {reason}")]
    Invalid { id: String, reason: String },
}

#[derive(Default)]
pub(crate) struct Definitions {
    compiled: HashMap<String, Arc<StateMachine>>,
}

impl Definitions {
    /// The definition, if it was asked for before.
    pub(crate) fn cached(&self, id: &str) -> Option<Arc<StateMachine>> {
        self.compiled.get(id).cloned()
    }

    pub(crate) async fn get(&mut self, store: &dyn Store, id: &str) -> Result<Arc<StateMachine>, Error> {
        if let Some(definition) = self.compiled.get(id) {
            return Ok(definition.clone());
        }
        let definition = match id.split_once('/') {
            None => self.parse(store, id).await?,
            // What the child executions of a Map Run run: `PARENT_DEFINITION_ID/LABEL`.
            Some((parent, label)) => {
                let parent = Box::pin(self.get(store, parent)).await?;
                Arc::new(parent.processor(label).ok_or_else(|| Error::Missing(id.to_owned()))?)
            }
        };
        if self.compiled.len() >= DEFINITIONS_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(id.to_owned(), definition.clone());
        Ok(definition)
    }

    async fn parse(&self, store: &dyn Store, id: &str) -> Result<Arc<StateMachine>, Error> {
        let row = Reader::definition(store, id).await?.ok_or_else(|| Error::Missing(id.to_owned()))?;
        match stagepost_asl::parse(&row.text) {
            Ok((definition, _)) => Ok(Arc::new(definition)),
            Err(findings) => {
                let reason = findings.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("; ");
                Err(Error::Invalid { id: id.to_owned(), reason })
            }
        }
    }
}
