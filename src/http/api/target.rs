//! The shadow or device named in a path.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};

use crate::{
    http::{problem::Problem, state::Api},
    shadow::{DeviceId, ShadowKey, ShadowName},
};

/// The shadow named by `{id}`, or by `{id}` and `{name}`.
#[derive(Clone, Debug)]
pub(in crate::http) struct Target(pub(in crate::http) ShadowKey);

impl FromRequestParts<Arc<Api>> for Target {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let invalid = |name: &str, reason: &str| Problem::parameter(name, reason, api.now());
        let parameters = RawPathParams::from_request_parts(parts, api).await;
        let parameters = parameters.map_err(|_| invalid("id", "is not percent-encoded UTF-8"))?;
        let (mut device, mut name) = (None, None);
        for (parameter, text) in &parameters {
            match parameter {
                "id" => device = Some(DeviceId::new(text).map_err(|error| invalid("id", &error.to_string()))?),
                _ => name = Some(ShadowName::new(text).map_err(|error| invalid("name", &error.to_string()))?),
            }
        }
        let device = device.ok_or_else(|| invalid("id", "is missing"))?;
        Ok(Self(ShadowKey { device, name }))
    }
}
