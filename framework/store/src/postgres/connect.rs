//! From a URL to pools of connections.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Config, NoTls,
    config::{Host, SslMode},
};

use super::migrations;
use crate::{Error, Result};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a free connection.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long without a sign of the server a connection counts as dead.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Every statement goes by an index. A plan made while the tables were small (and kept, as the statements are
/// prepared) must not read them whole once they are large: rows that are looked at cost more than look-ups.
const SETTINGS: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off \
     -c enable_hashjoin=off -c enable_mergejoin=off -c random_page_cost=0.1 -c cpu_tuple_cost=1 -c jit=off";

/// Settings of a [`super::PostgresStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The schema that holds the tables, so that several installations share a database; it is created where it
    /// is missing. Lower-case letters, digits and `_`. Default: the first of the user's search path (`public`).
    pub schema: Option<String>,
    /// What the server shows in `pg_stat_activity`. Default: `stagepost`.
    pub application_name: String,
    /// The most connections for commits, loads and leases. Default: 4.
    pub engine_connections: usize,
    /// The most connections for the API's reads. Default: 4.
    pub api_connections: usize,
    /// How long a read of the API may take. Default: 10 s.
    pub statement_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            schema: None,
            application_name: "stagepost".to_owned(),
            engine_connections: 4,
            api_connections: 4,
            statement_timeout: Duration::from_secs(10),
        }
    }
}

/// Migrates, and returns the pool of the coordinator and the pool of the API.
pub(super) async fn connect(url: &str, options: &Options) -> Result<(Pool, Pool)> {
    let config = config(url, options)?;
    let shown = shown(&config);
    migrations::migrate(&config, &shown, options.schema.as_deref()).await?;
    let api_settings = format!("{SETTINGS} -c statement_timeout={}", options.statement_timeout.as_millis());
    let engine = pool(config.clone(), SETTINGS, options.engine_connections, &shown)?;
    let api = pool(config, &api_settings, options.api_connections, &shown)?;
    Ok((engine, api))
}

fn config(url: &str, options: &Options) -> Result<Config> {
    // Neither the text nor the parser's complaint is passed on: either may hold the password.
    let mut config: Config = url.parse().map_err(|_| Error::Url {
        url: "DATABASE_URL".to_owned(),
        reason: "it is not of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned(),
    })?;
    if config.get_ssl_mode() == SslMode::Require {
        let reason = "sslmode=require is not supported: use a network that you trust".to_owned();
        return Err(Error::Url { url: shown(&config), reason });
    }
    let mut settings = config.get_options().unwrap_or_default().to_owned();
    // The functions of the schema rely on seeing what was committed while they waited for a lock.
    settings.push_str(" -c default_transaction_isolation=read\\ committed");
    if let Some(schema) = &options.schema {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if schema.is_empty() || schema.len() > 63 || !schema.chars().all(plain) {
            let reason = format!("the schema '{schema}' is not 1 to 63 lower-case letters, digits and '_'");
            return Err(Error::Url { url: shown(&config), reason });
        }
        settings.push_str(&format!(" -c search_path=\"{schema}\""));
    }
    config
        .options(settings.trim_start())
        .application_name(&options.application_name)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(TCP_USER_TIMEOUT);
    Ok(config)
}

fn pool(mut config: Config, settings: &str, size: usize, shown: &str) -> Result<Pool> {
    let settings = format!("{} {settings}", config.get_options().unwrap_or_default());
    config.options(&settings);
    // A closed connection is noticed without asking the server, so an idle pool sends nothing.
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, manager))
        .max_size(size.max(1))
        .wait_timeout(Some(WAIT_TIMEOUT))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|e| Error::Url { url: shown.to_owned(), reason: e.to_string() })
}

/// The database, without any secret.
fn shown(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let user = config.get_user().unwrap_or_default();
    format!("postgres://{user}@{host}:{port}/{}", config.get_dbname().unwrap_or(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_no_password() {
        let options = Options { schema: Some("No".to_owned()), ..Options::default() };
        for url in
            ["postgres://ada:hunter2@db:5433/x", "host=db user=ada password=hunter2 port=5433 dbname=x"]
        {
            let error = config(url, &options).unwrap_err().to_string();
            assert!(error.contains("postgres://ada@db:5433/x"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for bad in
            ["postgres://ada:hun?ter2=1@db/x", "amqp://ada:hunter2@db", "", "postgres://a:hunter2@h:no/x"]
        {
            if let Err(error) = config(bad, &Options::default()) {
                assert!(!error.to_string().contains("ter2"), "{error}");
            }
        }
        let require = config("postgres://ada:hunter2@db/x?sslmode=require", &Options::default());
        assert!(require.unwrap_err().to_string().contains("sslmode"));
    }
}
