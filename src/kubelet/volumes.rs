//! The files that a container's volumes put into it.
//!
//! Owns ConfigMaps, Secrets, the downward API and projections of them, with the kubelet's rules
//! (kubernetes/kubernetes, pkg/volume). Volumes of other kinds are empty directories: nothing of a
//! host or of a storage system is behind them, and containers of a pod do not share them. A container that runs has
//! started, and may well outlive what it names: what is not there any more has no files.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeMount, VolumeProjection,
};

use super::environment;
use super::fields::{self, Allocatable};
use super::objects::{Objects, Once, Unreadable};
use super::tree::{Node, Tree, TreePath};

/// Permissions of a volume's files, unless it says otherwise.
const DEFAULT_MODE: i32 = 0o644;

/// Why a volume cannot be mounted, in the kubelet's words: the message of `FailedMount`.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
pub struct MountError {
    /// Name of the volume.
    pub volume: String,
    /// What was wrong with it.
    pub source: SourceError,
}

/// What was wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A field or resource that the downward API does not have.
    #[error("unsupported downward API field: {field}")]
    UnsupportedField {
        /// The field.
        field: String,
    },
    /// An object could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Files of a volume by their paths in it, with their permissions.
type Files = BTreeMap<String, (Bytes, i32)>;

/// Puts a container's volumes into its tree; returns where they must not be written.
pub(super) async fn mount<O: Objects>(
    pod: &Pod,
    container: &Container,
    objects: &Once<'_, O>,
    node: Allocatable,
    environment: &BTreeMap<String, String>,
    now: Timestamp,
    tree: &mut Tree,
) -> Result<Vec<TreePath>, MountError> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let mut read_only = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes.iter().find(|volume| volume.name == mount.name) else {
            continue;
        };
        let source = Source {
            pod,
            container: &container.name,
            objects,
            node,
        };
        let files = source.files(volume).await.map_err(|source| MountError {
            volume: volume.name.clone(),
            source,
        })?;
        let path = TreePath::from(&*mount.mount_path);
        place(tree, &path, mount, files.as_ref(), environment, now);
        if files.is_some() || mount.read_only == Some(true) {
            read_only.push(path);
        }
    }
    Ok(read_only)
}

/// Puts a volume's files, or those under its `subPath`, at the mount's path.
fn place(
    tree: &mut Tree,
    path: &TreePath,
    mount: &VolumeMount,
    files: Option<&Files>,
    variables: &BTreeMap<String, String>,
    now: Timestamp,
) {
    let known = |name: &str| variables.get(name).cloned();
    let of_expression = mount.sub_path_expr.as_deref();
    let of_expression = of_expression.map(|path| environment::expanded(path, known));
    // What is mounted hides what was there.
    tree.remove(path);
    let Ok(of_expression) = of_expression.transpose() else {
        // No file has so long a path.
        tree.insert(path.clone(), Node::directory(now));
        return;
    };
    let sub_path = of_expression.or_else(|| mount.sub_path.clone());
    let sub_path = TreePath::from(sub_path.as_deref().unwrap_or_default());
    let mut as_file = false;
    let mut placed = Vec::new();
    for (name, (content, mode)) in files.into_iter().flatten() {
        let whole = TreePath::from(&**name);
        if !whole.is_within(&sub_path) {
            continue;
        }
        as_file |= whole == sub_path;
        let below = whole.to_string();
        let below = below.strip_prefix(&*sub_path.to_string()).unwrap_or(&below);
        let mode = u32::try_from(*mode).unwrap_or(0o644) & 0o777;
        let target = path.join(&format!("./{below}"));
        placed.push((target, Node::file(content.clone(), mode, now)));
    }
    if !as_file {
        tree.insert(path.clone(), Node::directory(now));
    }
    for (target, node) in placed {
        tree.insert(target, node);
    }
}

struct Source<'a, O> {
    pod: &'a Pod,
    container: &'a str,
    objects: &'a Once<'a, O>,
    node: Allocatable,
}

impl<O: Objects> Source<'_, O> {
    /// The files of a volume; `None` for one that a container can write.
    async fn files(&self, volume: &Volume) -> Result<Option<Files>, SourceError> {
        let mut files = Files::new();
        if let Some(source) = &volume.config_map {
            let items = source.items.as_deref();
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.config_map(&source.name, items, mode, &mut files)
                .await?;
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let items = source.items.as_deref();
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.secret(name, items, mode, &mut files).await?;
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.downward(source.items.as_deref(), mode, &mut files)?;
        } else if let Some(source) = &volume.projected {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            for projection in source.sources.iter().flatten() {
                self.projection(projection, mode, &mut files).await?;
            }
        } else {
            return Ok(None);
        }
        Ok(Some(files))
    }

    async fn projection(
        &self,
        projection: &VolumeProjection,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), SourceError> {
        if let Some(source) = &projection.config_map {
            let items = source.items.as_deref();
            self.config_map(&source.name, items, mode, files).await?;
        }
        if let Some(source) = &projection.secret {
            let items = source.items.as_deref();
            self.secret(&source.name, items, mode, files).await?;
        }
        if let Some(source) = &projection.downward_api {
            self.downward(source.items.as_deref(), mode, files)?;
        }
        if let Some(source) = &projection.service_account_token {
            let (audience, expiration_s) = (source.audience.as_deref(), source.expiration_seconds);
            let token = self
                .objects
                .objects
                .token(self.pod, audience, expiration_s)
                .await?;
            if let Some(token) = token {
                files.insert(source.path.clone(), (token.into(), mode));
            }
        }
        Ok(())
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), SourceError> {
        let Some(map) = self.objects.config_map(name).await? else {
            return Ok(());
        };
        let texts = map.data.unwrap_or_default().into_iter();
        let texts = texts.map(|(key, text)| (key, Bytes::from(text)));
        let binaries = map.binary_data.unwrap_or_default().into_iter();
        let binaries = binaries.map(|(key, value)| (key, Bytes::from(value.0)));
        let data = texts.chain(binaries).collect();
        chosen(&data, items, mode, files);
        Ok(())
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), SourceError> {
        let Some(secret) = self.objects.secret(name).await? else {
            return Ok(());
        };
        let data = secret.data.unwrap_or_default().into_iter();
        let data = data
            .map(|(key, value)| (key, Bytes::from(value.0)))
            .collect();
        chosen(&data, items, mode, files);
        Ok(())
    }

    fn downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), SourceError> {
        for item in items.unwrap_or_default() {
            let (field, value) = if let Some(reference) = &item.field_ref {
                let path = &reference.field_path;
                (path, fields::field(self.pod, path))
            } else if let Some(selector) = &item.resource_field_ref {
                let value = fields::resource(self.pod, self.container, selector, self.node);
                (&selector.resource, value)
            } else {
                continue;
            };
            let value = value.ok_or_else(|| SourceError::UnsupportedField {
                field: field.clone(),
            })?;
            files.insert(item.path.clone(), (value.into(), item.mode.unwrap_or(mode)));
        }
        Ok(())
    }
}

/// All keys, or those of `items` under the paths that they name.
fn chosen(
    data: &BTreeMap<String, Bytes>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    files: &mut Files,
) {
    let items = items.unwrap_or_default();
    if items.is_empty() {
        let all = data
            .iter()
            .map(|(key, value)| (key.clone(), (value.clone(), mode)));
        files.extend(all);
    }
    for item in items {
        if let Some(value) = data.get(&item.key) {
            let mode = item.mode.unwrap_or(mode);
            files.insert(item.path.clone(), (value.clone(), mode));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::objects::testing::Memory;
    use super::*;

    fn memory() -> Memory {
        let meta = |name: &str| json!({"name": name, "namespace": "shop"});
        let object = json!({"metadata": meta("cm"), "data": {"a": "1", "b": "2"}, "binaryData": {"c": "Mw=="}});
        let secret = json!({"metadata": meta("sec"), "data": {"s": "aGk="}});
        Memory {
            config_maps: vec![serde_json::from_value(object).unwrap()],
            secrets: vec![serde_json::from_value(secret).unwrap()],
            token: Some("tok".into()),
            ..Memory::default()
        }
    }

    /// Lines of `path mode content`, and where nothing can be written.
    async fn mounted(volume: Value, mount: Value) -> Result<(Vec<String>, usize), String> {
        let (mut volume, mut mount) = (volume, mount);
        volume["name"] = json!("v");
        mount["name"] = json!("v");
        mount["mountPath"] = json!("/m");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop", "labels": {"a": "b"}},
            "spec": {"volumes": [volume], "containers": [{"name": "app", "volumeMounts": [mount]}]},
        }))
        .unwrap();
        let memory = memory();
        let once = Once::new(&memory, "shop");
        let container = fields::find(&pod, "app").unwrap();
        let environment = BTreeMap::from([("X".to_owned(), "a".to_owned())]);
        let mut tree = Tree::default();
        let node = Allocatable::default();
        let now = Timestamp::UNIX_EPOCH;
        let read_only = super::mount(&pod, container, &once, node, &environment, now, &mut tree)
            .await
            .map_err(|error| error.to_string())?;
        let root = TreePath::root();
        let line = |(path, node): (&TreePath, &Node)| match &node.content {
            None => format!("{path}/"),
            Some(content) => format!(
                "{path} {:o} {}",
                node.mode,
                String::from_utf8_lossy(content)
            ),
        };
        Ok((tree.within(&root).map(line).collect(), read_only.len()))
    }

    #[tokio::test]
    async fn volumes_put_their_files_where_they_are_mounted() {
        let all = ["/m/", "/m/a 644 1", "/m/b 644 2", "/m/c 644 3"];
        let cm = json!({"configMap": {"name": "cm"}});
        for (volume, mount, want, read_only) in [
            (cm.clone(), json!({}), &all[..], 1),
            (
                json!({"configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "a", "path": "x/y", "mode": 448}, {"key": "b", "path": "../z"}]}}),
                json!({}),
                &["/m/", "/m/x/", "/m/x/y 700 1", "/m/z 400 2"],
                1,
            ),
            (
                json!({"secret": {"secretName": "sec"}}),
                json!({}),
                &["/m/", "/m/s 644 hi"],
                1,
            ),
            (
                json!({"secret": {"secretName": "no", "optional": true}}),
                json!({}),
                &["/m/"],
                1,
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
                json!({}),
                &["/m/", "/m/labels 644 a=\"b\""],
                1,
            ),
            (
                json!({"projected": {"defaultMode": 288, "sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}},
                    {"secret": {"name": "sec"}},
                    {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                ]}}),
                json!({}),
                &[
                    "/m/",
                    "/m/a 440 1",
                    "/m/ns 440 shop",
                    "/m/s 440 hi",
                    "/m/token 440 tok",
                ],
                1,
            ),
            (json!({"emptyDir": {}}), json!({}), &["/m/"], 0),
            (
                json!({"emptyDir": {}}),
                json!({"readOnly": true}),
                &["/m/"],
                1,
            ),
            (cm.clone(), json!({"subPath": "b"}), &["/m 644 2"], 1),
            (cm.clone(), json!({"subPathExpr": "$(X)"}), &["/m 644 1"], 1),
            (
                cm.clone(),
                json!({"subPathExpr": "$(X)".repeat(200_000)}),
                &["/m/"],
                1,
            ),
            (cm, json!({"subPath": "none"}), &["/m/"], 1),
        ] {
            let got = mounted(volume.clone(), mount.clone()).await.unwrap();
            let want: Vec<_> = want.iter().map(ToString::to_string).collect();
            assert_eq!(got, (want, read_only), "{volume} {mount}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_any_more_has_no_files() {
        let item = json!([{"key": "z", "path": "z"}]);
        for volume in [
            json!({"configMap": {"name": "no"}}),
            json!({"secret": {"secretName": "no"}}),
            json!({"projected": {"sources": [{"secret": {"name": "no"}}]}}),
            json!({"configMap": {"name": "cm", "items": item}}),
            json!({"secret": {"secretName": "sec", "items": item}}),
        ] {
            let got = mounted(volume.clone(), json!({})).await.unwrap();
            assert_eq!(got, (vec!["/m/".to_owned()], 1), "{volume}");
        }
    }
}
