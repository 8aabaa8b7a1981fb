//! Windows of a data set: some items, and a cursor from which the next window goes on.
//!
//! A data set is a sequence of objects: one, those of a listing, or those that a manifest lists. A cursor names the
//! place in the sequence and the place in the object that is being read, and with each place the version of what it
//! is a place in. A window fetches ranges of bytes around what it is asked for, so that its memory and its cost do
//! not depend on the size of the data set.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    config::{Csv, Format, Manifest, ReaderConfig},
    decode::{Item, Mark, Next, ObjectReader, Place},
    error::{ReadError, excerpt},
    gzip::{Gunzip, Unpacked},
    source::{Chunk, Listed, Listing, Object, Objects, changed},
};

/// Objects that one window opens at most; a sequence of empty objects is read in several windows.
const OBJECTS_PER_WINDOW_MAX: usize = 1_000;
/// Keys that are asked for at once.
const LIST_PAGE_MAX: usize = 1_000;
/// Objects that `LOAD_AND_FLATTEN` asks the list for at once.
const FLATTEN_PAGE: usize = 100;
/// What naming a source takes beside the name: `{"source":"","items":1000000},`.
const SOURCE_RUN_BYTES: usize = 32;
/// Range that is fetched at the beginning of an object, in bytes.
const FIRST_RANGE_BYTES: usize = 256 * 1024;
/// Shortest range that is fetched, in bytes.
const RANGE_BYTES_MIN: usize = 64 * 1024;
/// Longest range that is fetched, in bytes.
const RANGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The input of the connector `stagepost:readItems`: a Map state's `ItemReader` after its expressions were
/// evaluated, and which of the items are wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadRequest {
    /// `ItemReader.Resource`.
    pub resource: String,
    /// `ItemReader.ReaderConfig`, with `MaxItems` for what `MaxItemsPath` names.
    #[serde(default)]
    pub reader_config: Value,
    /// `ItemReader.Parameters` or `Arguments`.
    #[serde(default)]
    pub parameters: Value,
    /// Where to go on: the cursor of the window before, none for the first one.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most items in this window.
    pub limit: usize,
    /// Most bytes that the items of this window take, with their names and sources. The first one may take a little
    /// more: an item by itself may have as many bytes. The cursor comes on top.
    pub max_bytes: usize,
}

/// The output of the connector `stagepost:readItems`. It may hold fewer items than were asked for, even none, and
/// yet not be the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window<T = Box<serde_json::value::RawValue>> {
    /// The items, in the order of the data set.
    pub items: Vec<T>,
    /// Where the next window begins; none: there is none.
    pub cursor: Option<String>,
    /// The items in the windows before.
    pub first_index: u64,
    /// The items' names, where the fields of an object are the items; as many as there are items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<Option<String>>>,
    /// Which objects the items came from, in their order: as many items as each says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceRun>,
}

/// Items that came from one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRun {
    /// The object (`$states.context.Map.Item.Source`).
    pub source: String,
    /// How many items in succession.
    pub items: usize,
}

/// Reads one window.
pub async fn read_window(objects: &dyn Objects, request: &ReadRequest) -> Result<Window<String>, ReadError> {
    let config = ReaderConfig::parse(&request.reader_config)?;
    let plan = Plan::new(request, &config)?;
    let cursor = match &request.cursor {
        Some(text) => {
            serde_json::from_str(text).map_err(|_| ReadError::new("the cursor is not one of a window's"))?
        }
        None => Cursor { items: 0, sequence: SequencePlace::START, object: None },
    };
    if request.limit == 0 || request.max_bytes == 0 {
        return Err(ReadError::new("a window needs a limit and max_bytes above zero"));
    }
    let mut window = Collecting {
        objects,
        limit: request.limit,
        bytes_max: request.max_bytes,
        items_max: config.items_max,
        first_index: cursor.items,
        items: Vec::new(),
        bytes: 0,
        keys: Vec::new(),
        sources: Vec::new(),
        source_bytes: 0,
    };
    let cursor = match plan {
        Plan::List(listing) => window.list(listing, cursor).await?,
        Plan::Objects(sequence) => window.objects(sequence, cursor).await?,
    };
    Ok(window.close(cursor))
}

/// Where a window begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cursor {
    /// The items in the windows before.
    #[serde(rename = "n")]
    items: u64,
    #[serde(rename = "s", default)]
    sequence: SequencePlace,
    /// The object that the window before stopped in.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    object: Option<ObjectPlace>,
}

impl Cursor {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("the keys of a cursor are strings")
    }
}

/// A place in a sequence of objects.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct SequencePlace {
    /// The key of the last object of the listing that was begun.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// The objects that were begun, where there is a list of them.
    #[serde(rename = "i", default, skip_serializing_if = "is_zero")]
    begun: usize,
    /// The place in the manifest that lists them.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    manifest: Option<VersionedPlace>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl SequencePlace {
    const START: SequencePlace = SequencePlace { after: None, begun: 0, manifest: None };
}

/// A place in an object, and which content of the object it is a place in.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct VersionedPlace {
    #[serde(rename = "v", default, skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(rename = "p")]
    place: Place,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ObjectPlace {
    #[serde(rename = "r")]
    object: Object,
    #[serde(rename = "p")]
    place: VersionedPlace,
}

/// What a request asks to read.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// The entries of a list are the items.
    List(Listing),
    /// The items are in objects.
    Objects(SequencePlan),
}

#[derive(Debug, PartialEq, Eq)]
enum SequencePlan {
    One(Object, Format),
    Listed(Listing, Format),
    Inventory(Object),
    Athena(Object, Format),
}

impl Plan {
    fn new(request: &ReadRequest, config: &ReaderConfig) -> Result<Plan, ReadError> {
        let parameters = &request.parameters;
        let required = |name: &str| {
            text(parameters, name)?.ok_or_else(|| ReadError::new(format!("the item reader needs {name}")))
        };
        // arn:PARTITION:states:REGION:ACCOUNT:SERVICE:ACTION
        let action = request.resource.splitn(6, ':').nth(5).unwrap_or_default();
        let object = match action {
            "s3:getObject" => Object::S3 {
                bucket: required("Bucket")?,
                key: required("Key")?,
                version_id: text(parameters, "VersionId")?,
            },
            "s3:listObjectsV2" => {
                let listing = Listing {
                    bucket: required("Bucket")?,
                    prefix: text(parameters, "Prefix")?.unwrap_or_default(),
                    start_after: text(parameters, "StartAfter")?,
                };
                return match (config.flatten, &config.format) {
                    (false, _) => Ok(Plan::List(listing)),
                    (true, Some(format)) => Ok(Plan::Objects(SequencePlan::Listed(listing, format.clone()))),
                    (true, None) => {
                        Err(ReadError::new("LOAD_AND_FLATTEN needs InputType CSV, JSON or JSONL"))
                    }
                };
            }
            "file:read" => Object::File { path: required("Path")? },
            "http:get" => Object::Http { url: required("Url")? },
            _ => {
                return Err(ReadError::new(format!(
                    "the resource '{}' is no item reader: s3:getObject, s3:listObjectsV2, file:read and http:get are",
                    excerpt(&request.resource)
                )));
            }
        };
        let sequence = match (config.manifest, &config.format) {
            (Manifest::S3Inventory, _) => SequencePlan::Inventory(object),
            (Manifest::Athena, Some(format)) => SequencePlan::Athena(object, format.clone()),
            (Manifest::None, Some(format)) => SequencePlan::One(object, format.clone()),
            (_, None) => {
                return Err(ReadError::new("the item reader needs InputType CSV, JSON, JSONL or MANIFEST"));
            }
        };
        Ok(Plan::Objects(sequence))
    }
}

fn text(parameters: &Value, name: &str) -> Result<Option<String>, ReadError> {
    match parameters.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ReadError::new(format!("the item reader's {name} must be a string"))),
    }
}

/// A window that is being filled.
struct Collecting<'a> {
    objects: &'a dyn Objects,
    limit: usize,
    bytes_max: usize,
    /// Of all windows.
    items_max: u64,
    first_index: u64,
    items: Vec<String>,
    bytes: usize,
    keys: Vec<Option<String>>,
    sources: Vec<SourceRun>,
    /// What naming the source of the next item takes, where it is another one than before.
    source_bytes: usize,
}

/// What became of an item.
enum Offer {
    Taken,
    /// It goes into the next window.
    Full,
}

impl Collecting<'_> {
    fn close(self, cursor: Option<Cursor>) -> Window<String> {
        Window {
            cursor: cursor.map(|cursor| cursor.text()),
            first_index: self.first_index,
            keys: self.keys.iter().any(Option::is_some).then_some(self.keys),
            sources: self.sources,
            items: self.items,
        }
    }

    fn count(&self) -> u64 {
        self.first_index + self.items.len() as u64
    }

    /// No further item belongs to the data set.
    fn is_complete(&self) -> bool {
        self.count() >= self.items_max
    }

    fn offer(&mut self, item: Item) -> Result<Offer, ReadError> {
        let length =
            item.value.len() + 1 + item.key.as_ref().map_or(0, |key| key.len() + 3) + self.source_bytes;
        if self.items.len() >= self.limit || (!self.items.is_empty() && self.bytes + length > self.bytes_max)
        {
            return Ok(Offer::Full);
        }
        if item.value.len() > self.bytes_max {
            return Err(ReadError::new(format!(
                "item {} has {} bytes; at most {} are accepted",
                self.count(),
                item.value.len(),
                self.bytes_max
            )));
        }
        self.bytes += length;
        self.source_bytes = 0;
        self.items.push(item.value);
        self.keys.push(item.key);
        Ok(Offer::Taken)
    }

    fn note_source(&mut self, source: String) {
        let noted: usize = self.sources.iter().map(|run| run.items).sum();
        let items = self.items.len() - noted;
        if items > 0 {
            self.sources.push(SourceRun { source, items });
        }
    }

    async fn list(&mut self, mut listing: Listing, cursor: Cursor) -> Result<Option<Cursor>, ReadError> {
        let bucket = format!("s3://{}", listing.bucket);
        let mut after = cursor.sequence.after;
        let mut ended = false;
        'pages: while !ended {
            listing.start_after = after.clone().or(listing.start_after);
            // One more than fits tells whether there is a next window.
            let wanted = (self.limit + 1 - self.items.len()).min(LIST_PAGE_MAX);
            let page = self.objects.list(&listing, wanted).await?;
            ended = page.len() < wanted;
            for listed in page {
                if self.is_complete() {
                    ended = true;
                    break 'pages;
                }
                let item = Item { value: listed.item.to_string(), key: None };
                if matches!(self.offer(item)?, Offer::Full) {
                    ended = false;
                    break 'pages;
                }
                after = Some(listed.key);
            }
        }
        self.note_source(bucket);
        let sequence = SequencePlace { after, ..SequencePlace::START };
        Ok((!ended).then(|| Cursor { items: self.count(), sequence, object: None }))
    }

    async fn objects(&mut self, plan: SequencePlan, cursor: Cursor) -> Result<Option<Cursor>, ReadError> {
        let mut place = cursor.sequence;
        let mut sequence = Sequence::open(plan, self.objects, &mut place).await?;
        let mut object = cursor.object;
        for _ in 0..OBJECTS_PER_WINDOW_MAX {
            // The place from which this object is begun anew.
            let before = place.clone();
            let current = match object.take() {
                Some(current) => current,
                None => match sequence.next(self.objects, &mut place).await? {
                    Some(object) => ObjectPlace { object, place: VersionedPlace::START },
                    None => return Ok(None),
                },
            };
            let name = current.object.clone();
            let begun = current.place.place.items > 0;
            self.source_bytes = name.to_string().len() + SOURCE_RUN_BYTES;
            let read = self.object(sequence.format(), current).await;
            // A single object's name is in the definition.
            let read = read.map_err(|e| if sequence.is_one() { e } else { e.at(&name) })?;
            self.note_source(name.to_string());
            match read {
                Read::Whole if self.is_complete() => return Ok(None),
                Read::Whole => {}
                Read::Until(at) => {
                    // Nothing of it was read: the next window begins it, if there is something in it.
                    let untouched = at.place.items == 0 && !begun;
                    let (sequence, object) = if untouched {
                        (before, None)
                    } else {
                        (place, Some(ObjectPlace { object: name, place: at }))
                    };
                    return Ok(Some(Cursor { items: self.count(), sequence, object }));
                }
            }
        }
        Ok(Some(Cursor { items: self.count(), sequence: place, object: None }))
    }

    async fn object(&mut self, format: &Format, current: ObjectPlace) -> Result<Read, ReadError> {
        let mut fetcher = Fetcher::new(format, current, self.limit, self.bytes_max);
        while !self.is_complete() {
            let mark = fetcher.reader.mark();
            let Some(item) = fetcher.next(self.objects).await? else { return Ok(Read::Whole) };
            if matches!(self.offer(item)?, Offer::Full) {
                return Ok(Read::Until(fetcher.place(mark)));
            }
        }
        Ok(Read::Whole)
    }
}

enum Read {
    /// To its end, or as far as items are wanted at all.
    Whole,
    Until(VersionedPlace),
}

impl VersionedPlace {
    const START: VersionedPlace = VersionedPlace { version: String::new(), place: Place::START };
}

/// Fetches the ranges of one object that its items need.
struct Fetcher {
    object: Object,
    version: String,
    reader: ObjectReader,
    /// What the object is compressed with.
    gunzip: Option<Gunzip>,
    /// Length of the next range.
    range: usize,
}

impl Fetcher {
    fn new(format: &Format, at: ObjectPlace, limit: usize, bytes_max: usize) -> Fetcher {
        let VersionedPlace { version, place } = at.place;
        // So much do as many items take as fit, if they are like those before.
        let range = match place.offset.checked_div(place.items) {
            Some(item_bytes) => {
                let wanted = usize::try_from(item_bytes).unwrap_or(usize::MAX).saturating_mul(limit);
                wanted.min(bytes_max.saturating_mul(2)).saturating_add(wanted / 8)
            }
            None => FIRST_RANGE_BYTES,
        };
        Fetcher {
            gunzip: at.object.is_gzip().then(|| Gunzip::new(place.offset)),
            object: at.object,
            version,
            reader: ObjectReader::new(format, &place),
            range: range.clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX),
        }
    }

    fn place(&self, mark: Mark) -> VersionedPlace {
        VersionedPlace { version: self.version.clone(), place: self.reader.place(mark) }
    }

    async fn next(&mut self, objects: &dyn Objects) -> Result<Option<Item>, ReadError> {
        loop {
            match self.reader.next()? {
                Next::Item(item) => return Ok(Some(item)),
                Next::End => return Ok(None),
                Next::More => self.fetch(objects).await?,
            }
        }
    }

    async fn fetch(&mut self, objects: &dyn Objects) -> Result<(), ReadError> {
        let (bytes, last) = loop {
            let offset = match &mut self.gunzip {
                None => self.reader.received(),
                Some(gunzip) => match gunzip.pull()? {
                    Unpacked::Piece(piece) if piece.is_empty() => {
                        // What is skipped may be much: let others work.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Unpacked::Piece(piece) => break (piece.into(), false),
                    Unpacked::End => break (Bytes::new(), true),
                    Unpacked::More => gunzip.received(),
                },
            };
            let chunk = self.chunk(objects, offset).await?;
            match &mut self.gunzip {
                None => break (chunk.bytes, chunk.last),
                Some(gunzip) => gunzip.push(chunk.bytes, chunk.last),
            }
        };
        self.reader.push(&bytes, last);
        Ok(())
    }

    async fn chunk(&mut self, objects: &dyn Objects, offset: u64) -> Result<Chunk, ReadError> {
        let expected = (!self.version.is_empty()).then_some(self.version.as_str());
        let chunk = objects.read(&self.object, offset, self.range, expected).await?;
        if expected.is_some_and(|version| version != chunk.version) {
            return Err(changed(&self.object));
        }
        if chunk.bytes.is_empty() && !chunk.last {
            return Err(ReadError::new("its bytes end before the object does"));
        }
        self.version.clone_from(&chunk.version);
        self.range = (self.range * 2).min(RANGE_BYTES_MAX);
        Ok(chunk)
    }
}

/// The objects that hold the items, one after the other.
enum Sequence {
    One(Object, Format),
    Listed { listing: Listing, format: Format, page: VecDeque<Listed>, ended: bool },
    Inventory(super::manifest::Inventory),
    Athena(Box<Fetcher>, Format),
}

impl Sequence {
    async fn open(
        plan: SequencePlan,
        objects: &dyn Objects,
        place: &mut SequencePlace,
    ) -> Result<Sequence, ReadError> {
        let manifest = place.manifest.clone().unwrap_or(VersionedPlace::START);
        Ok(match plan {
            SequencePlan::One(object, format) => Sequence::One(object, format),
            SequencePlan::Listed(listing, format) => {
                Sequence::Listed { listing, format, page: VecDeque::new(), ended: false }
            }
            SequencePlan::Inventory(object) => {
                let (inventory, version) = super::manifest::load(objects, &object, &manifest.version).await?;
                place.manifest = Some(VersionedPlace { version, place: Place::START });
                Sequence::Inventory(inventory)
            }
            SequencePlan::Athena(object, format) => {
                // One URI a line.
                let lines = Format::Csv(Csv { delimiter: b',', headers: Some(vec!["uri".to_owned()]) });
                let at = ObjectPlace { object, place: manifest };
                Sequence::Athena(Box::new(Fetcher::new(&lines, at, FLATTEN_PAGE, RANGE_BYTES_MIN)), format)
            }
        })
    }

    fn format(&self) -> &Format {
        match self {
            Sequence::One(_, format) | Sequence::Listed { format, .. } | Sequence::Athena(_, format) => {
                format
            }
            Sequence::Inventory(inventory) => &inventory.format,
        }
    }

    fn is_one(&self) -> bool {
        matches!(self, Sequence::One(..))
    }

    /// The object after `place`, which moves on.
    async fn next(
        &mut self,
        objects: &dyn Objects,
        place: &mut SequencePlace,
    ) -> Result<Option<Object>, ReadError> {
        let object = match self {
            Sequence::One(object, _) => (place.begun == 0).then(|| object.clone()),
            Sequence::Inventory(inventory) => inventory.files.get(place.begun).cloned(),
            Sequence::Listed { listing, page, ended, .. } => {
                loop {
                    let Some(listed) = page.pop_front() else {
                        if *ended {
                            return Ok(None);
                        }
                        listing.start_after = place.after.clone().or(listing.start_after.take());
                        page.extend(objects.list(listing, FLATTEN_PAGE).await?);
                        *ended = page.len() < FLATTEN_PAGE;
                        continue;
                    };
                    place.after = Some(listed.key.clone());
                    // What consoles make for a folder.
                    if listed.size > 0 || !listed.key.ends_with('/') {
                        let bucket = listing.bucket.clone();
                        return Ok(Some(Object::S3 { bucket, key: listed.key, version_id: None }));
                    }
                }
            }
            Sequence::Athena(manifest, _) => {
                let uri = loop {
                    let Some(line) = manifest.next(objects).await? else { return Ok(None) };
                    place.manifest = Some(manifest.place(manifest.reader.mark()));
                    let uri = super::manifest::uri(&line);
                    if !uri.is_empty() {
                        break uri;
                    }
                };
                return super::manifest::s3_object(&uri).map(Some);
            }
        };
        place.begun += 1;
        Ok(object)
    }
}
