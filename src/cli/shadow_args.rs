//! Arguments that name a shadow, and the topics of that shadow.

use clap::Args;
use umbra_client::{InvalidName, ShadowId};

use crate::shadow::name::{DeviceId, NameError, ShadowName};

/// The shadow of a command.
#[derive(Debug, Args)]
pub(super) struct ShadowArgs {
    /// Device id: 1 to 128 of A-Z a-z 0-9 : _ -
    #[arg(value_parser = device)]
    pub(super) device: DeviceId,
    /// Name of a named shadow of the device; without it, the classic shadow.
    #[arg(long, value_parser = name)]
    pub(super) name: Option<ShadowName>,
}

impl ShadowArgs {
    /// Returns the key of the shadow.
    pub(super) fn id(&self) -> Result<ShadowId, InvalidName> {
        let device = umbra_client::DeviceId::new(self.device.as_str())?;
        match &self.name {
            None => Ok(device.into()),
            Some(name) => ShadowId::named(device, name.as_str()),
        }
    }

    /// Returns the topic of `verb`, such as `shadow/therm-1/update`.
    pub(super) fn topic(&self, verb: &str) -> String {
        match &self.name {
            None => format!("shadow/{}/{verb}", self.device.as_str()),
            Some(name) => format!("shadow/{}/name/{}/{verb}", self.device.as_str(), name.as_str()),
        }
    }
}

fn device(text: &str) -> Result<DeviceId, NameError> {
    DeviceId::new(text)
}

fn name(text: &str) -> Result<ShadowName, NameError> {
    ShadowName::new(text)
}
