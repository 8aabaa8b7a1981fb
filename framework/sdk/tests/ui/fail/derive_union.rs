use stagepost::ActivityError;

#[derive(ActivityError)]
union Declined {
    _code: u32,
}

impl std::fmt::Display for Declined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("declined")
    }
}

fn main() {}
