//! How a command has ended, as its client is told.

use serde_json::json;

/// How a command has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// It ran and ended with this code.
    Exited(i32),
    /// It could not be run; says why.
    Failed(String),
}

impl ExitStatus {
    /// The end of a command that went well.
    pub const SUCCESS: Self = Self::Exited(0);

    /// A `metav1.Status`, from version 4 of the protocol on.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let message = self.to_text();
        let status = match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(_) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }

    /// Plain text up to version 3, where any text means a failure.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Exited(0) => String::new(),
            Self::Exited(code) => format!("command terminated with non-zero exit code: {code}"),
            Self::Failed(why) => {
                format!("Internal error occurred: error executing command in container: {why}")
            }
        }
    }
}
