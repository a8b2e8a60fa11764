//! Taking the API server of a control plane away and bringing it back, with all that it knew: etcd goes on.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::{CONTROL_PLANE, ControlPlane, control_plane::APISERVER};

impl ControlPlane {
    /// Ends the API server with SIGKILL; its port is closed until [`ControlPlane::start_apiserver`].
    ///
    /// # Errors
    /// It does not run, or the cluster is that of `KUBECONFIG`.
    pub fn kill_apiserver(&mut self) -> Result<()> {
        let index = self.apiserver()?;
        self.components.remove(index).kill9();
        Ok(())
    }

    /// Starts the API server again, on the same port and data, and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started or is not ready within two minutes.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        let program = CONTROL_PLANE.path()?;
        self.spawn(&program, APISERVER, &self.apiserver_flags.clone())?;
        self.wait_for_apiserver().await
    }

    /// Stops the API server without ending it: connections stay, and nothing is answered.
    ///
    /// # Errors
    /// As for [`ControlPlane::kill_apiserver`].
    pub fn freeze_apiserver(&self) -> Result<()> {
        self.components[self.apiserver()?].signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As for [`ControlPlane::kill_apiserver`].
    pub fn thaw_apiserver(&self) -> Result<()> {
        self.components[self.apiserver()?].signal(Signal::CONT)
    }

    fn apiserver(&self) -> Result<usize> {
        let found = self.components.iter().position(|it| it.name() == APISERVER);
        found.context("the test bed runs no API server of its own here")
    }

    /// Where the API server listens.
    ///
    /// # Errors
    /// The kubeconfig names no address.
    pub fn address(&self) -> Result<SocketAddr> {
        let config = read(self.kubeconfig())?;
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        let address = server.and_then(|url| url.strip_prefix("https://"));
        let address = address.context("the kubeconfig names no server")?;
        address
            .parse()
            .with_context(|| format!("{address} is no address"))
    }

    /// A kubeconfig file of a cluster administrator who reaches the API server at `address`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig_at(&self, address: SocketAddr) -> Result<PathBuf> {
        let mut config = read(self.kubeconfig())?;
        config["clusters"][0]["cluster"]["server"] = format!("https://{address}").into();
        let path = self
            .dir()
            .join(format!("admin-{}.kubeconfig", address.port()));
        fs::write(&path, config.to_string()).context("cannot write the kubeconfig")?;
        Ok(path)
    }
}

fn read(kubeconfig: &Path) -> Result<Value> {
    let text = fs::read_to_string(kubeconfig).context("cannot read the kubeconfig")?;
    serde_json::from_str(&text).context("the kubeconfig is not the test bed's own")
}
