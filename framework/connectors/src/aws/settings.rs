//! Endpoints, credentials and region, by the variables that AWS's SDKs read (AWS SDKs and Tools Reference Guide,
//! "Service-specific endpoints", "Environment variables").

use std::{collections::HashMap, fmt};

use super::Service;

const ENDPOINT: &str = "AWS_ENDPOINT_URL";

/// Where services are and who calls them.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `AWS_ENDPOINT_URL`: stands for every service without one of its own.
    pub endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_NAME`, by the name.
    pub endpoints: HashMap<String, String>,
    /// `AWS_ACCESS_KEY_ID` and its siblings.
    pub credentials: Option<Credentials>,
    /// `AWS_REGION` or `AWS_DEFAULT_REGION`. Default: that of the execution.
    pub region: Option<String>,
}

/// Who signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(secret)")
    }
}

impl Settings {
    /// What the environment says. Empty variables are not set.
    pub fn from_env() -> Settings {
        // Variables that are not Unicode are none of these.
        Settings::from_variables(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// As [`Settings::from_env`], from these variables.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Settings {
        let variables: HashMap<String, String> = variables
            .into_iter()
            .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty())
            .collect();
        let get = |name: &str| variables.get(name).cloned();
        let credentials = get("AWS_ACCESS_KEY_ID")
            .zip(get("AWS_SECRET_ACCESS_KEY"))
            .map(|(key_id, secret)| Credentials { key_id, secret, session_token: get("AWS_SESSION_TOKEN") });
        let endpoints = variables
            .iter()
            .filter_map(|(name, value)| {
                let service = name.strip_prefix(ENDPOINT)?.strip_prefix('_')?;
                Some((service.to_owned(), value.clone()))
            })
            .collect();
        Settings {
            endpoint: get(ENDPOINT),
            endpoints,
            credentials,
            region: get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")),
        }
    }

    /// The endpoint of a service in a region, and whether it is AWS's own.
    pub(super) fn endpoint(&self, service: Service, region: &str) -> (String, bool) {
        if let Some(endpoint) = self.endpoints.get(service.variable).or(self.endpoint.as_ref()) {
            return (endpoint.clone(), false);
        }
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let host = match service.host {
            // The two that have one endpoint for all regions.
            global @ ("iam" | "organizations") => format!("{global}.{suffix}"),
            regional => format!("{regional}.{region}.{suffix}"),
        };
        (format!("https://{host}"), true)
    }

    /// Who signs. An endpoint that is not AWS's is signed for with a key of no meaning where there is none: what stands
    /// for AWS reads service and region from the signature and checks nothing else.
    pub(super) fn credentials_for(&self, is_default_endpoint: bool) -> Option<Credentials> {
        let stand_in =
            || Credentials { key_id: "test".to_owned(), secret: "test".to_owned(), session_token: None };
        self.credentials.clone().or_else(|| (!is_default_endpoint).then(stand_in))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: Service =
        Service { variable: "SECRETS_MANAGER", host: "secretsmanager", signing: "secretsmanager" };

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from_variables(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn endpoints_are_the_services_own_then_the_common_one_then_awss() {
        let own = ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://own");
        let common = ("AWS_ENDPOINT_URL", "http://common");
        let aws = "https://secretsmanager.eu-west-1.amazonaws.com";
        for (variables, endpoint, is_default) in [
            (&[own, common][..], "http://own", false),
            (&[common][..], "http://common", false),
            (&[("AWS_ENDPOINT_URL_S3", "http://s3"), ("AWS_ENDPOINT_URL", "")][..], aws, true),
        ] {
            let found = settings(variables).endpoint(SECRETS, "eu-west-1");
            assert_eq!(found, (endpoint.to_owned(), is_default), "{variables:?}");
        }
        let china = Settings::default().endpoint(SECRETS, "cn-north-1").0;
        assert_eq!(china, "https://secretsmanager.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn credentials_and_region_are_read() {
        let full = settings(&[
            ("AWS_ACCESS_KEY_ID", "k"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_SESSION_TOKEN", "t"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
        ]);
        let credentials =
            Credentials { key_id: "k".into(), secret: "s".into(), session_token: Some("t".into()) };
        assert_eq!(full.credentials_for(true), Some(credentials));
        assert_eq!(full.region.as_deref(), Some("eu-west-1"));
        assert!(!format!("{full:?}").contains("\"s\""));
        let none = settings(&[("AWS_ACCESS_KEY_ID", "k")]);
        assert_eq!(none.credentials_for(true), None);
        assert_eq!(none.credentials_for(false).unwrap().key_id, "test");
    }
}
