//! The table of routes: what there is, who may, how often. The server answers by it, and the OpenAPI document is made from it.

use std::num::NonZeroU32;

/// What a call must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Look.
    Read,
    /// Change.
    Write,
    /// Run a command in a machine.
    Exec,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operation {
    ListApps,
    CreateApp,
    ShowApp,
    DeleteApp,
    DeployToken,
    ListMachines,
    CreateMachine,
    ShowMachine,
    UpdateMachine,
    DeleteMachine,
    Events,
    Versions,
    Start,
    Stop,
    Suspend,
    Restart,
    Signal,
    Wait,
    Cordon,
    Uncordon,
    ShowLease,
    CreateLease,
    ReleaseLease,
    ShowMetadata,
    UpdateMetadata,
    GetMetadata,
    SetMetadata,
    DeleteMetadata,
    Exec,
    Processes,
    Logs,
    Memory,
    SetMemory,
    ReclaimMemory,
    OrgMachines,
    OrgVolumes,
    ListVolumes,
    CreateVolume,
    ShowVolume,
    UpdateVolume,
    DeleteVolume,
    ExtendVolume,
    ListSnapshots,
    CreateSnapshot,
    ListSecrets,
    UpdateSecrets,
    ShowSecret,
    SetSecret,
    DeleteSecret,
    ListKeys,
    ShowKey,
    SetKey,
    GenerateKey,
    DeleteKey,
    Encrypt,
    Decrypt,
    Sign,
    Verify,
    Regions,
    Placements,
    ListIps,
    AssignIp,
    ReleaseIp,
    ListCertificates,
    AcmeCertificate,
    CustomCertificate,
    ShowCertificate,
    CheckCertificate,
    DeleteCertificate,
    DeleteAcme,
    DeleteCustom,
    ListPolicies,
    CreatePolicy,
    DeletePolicy,
    CurrentTokens,
    Authenticate,
    Authorize,
    Oidc,
    Kms,
}

/// A route below `/v1`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) operation: Operation,
    pub(crate) needs: Needs,
    #[cfg_attr(
        not(feature = "openapi"),
        expect(dead_code, reason = "words of the OpenAPI document")
    )]
    pub(crate) about: &'static str,
}

impl Route {
    /// How often: so many a second, so many at once.
    pub(crate) fn rate(&self) -> (NonZeroU32, NonZeroU32) {
        let (rate, burst) = match self.operation {
            Operation::ShowMachine => (5, 10),
            // 100 a minute.
            Operation::DeleteApp => (2, 100),
            _ => (1, 3),
        };
        (
            NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN),
            NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
        )
    }
}

const fn route(
    method: &'static str,
    path: &'static str,
    operation: Operation,
    needs: Needs,
    about: &'static str,
) -> Route {
    Route {
        method,
        path,
        operation,
        needs,
        about,
    }
}

/// Every route.
#[rustfmt::skip]
pub(crate) const ROUTES: &[Route] = {
    use Needs::{Exec as E, Read as R, Write as W};
    use Operation as O;
    &[
        route("GET", "/apps", O::ListApps, R, "The apps of an org"),
        route("POST", "/apps", O::CreateApp, W, "Makes an app"),
        route("GET", "/apps/{app_name}", O::ShowApp, R, "An app"),
        route("DELETE", "/apps/{app_name}", O::DeleteApp, W, "Deletes an app with all that is in it"),
        route("POST", "/apps/{app_name}/deploy_token", O::DeployToken, W, "A token for one app"),
        route("GET", "/apps/{app_name}/machines", O::ListMachines, R, "The machines of an app"),
        route("POST", "/apps/{app_name}/machines", O::CreateMachine, W, "Makes a machine, and starts it"),
        route("GET", "/apps/{app_name}/machines/{machine_id}", O::ShowMachine, R, "A machine"),
        route("POST", "/apps/{app_name}/machines/{machine_id}", O::UpdateMachine, W, "Gives a machine a new config"),
        route("PUT", "/apps/{app_name}/machines/{machine_id}", O::UpdateMachine, W, "The same as POST"),
        route("DELETE", "/apps/{app_name}/machines/{machine_id}", O::DeleteMachine, W, "Destroys a machine"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/events", O::Events, R, "What happened to a machine"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/versions", O::Versions, R, "The versions of a machine"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/start", O::Start, W, "Starts or resumes a machine"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/stop", O::Stop, W, "Stops a machine"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/suspend", O::Suspend, W, "Suspends a machine"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/restart", O::Restart, W, "Stops and starts a machine"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/signal", O::Signal, W, "Sends a signal to a machine's first program"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/wait", O::Wait, R, "Waits until a machine is in a state"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/cordon", O::Cordon, W, "Takes a machine out of the proxy"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/uncordon", O::Uncordon, W, "Puts a machine into the proxy again"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/lease", O::ShowLease, R, "Who holds a machine's lease"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/lease", O::CreateLease, W, "Takes or renews a machine's lease"),
        route("DELETE", "/apps/{app_name}/machines/{machine_id}/lease", O::ReleaseLease, W, "Gives a machine's lease back"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/metadata", O::ShowMetadata, R, "A machine's metadata"),
        route("PUT", "/apps/{app_name}/machines/{machine_id}/metadata", O::UpdateMetadata, W, "Replaces a machine's metadata"),
        route("PATCH", "/apps/{app_name}/machines/{machine_id}/metadata", O::UpdateMetadata, W, "Changes a machine's metadata"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/metadata/{key}", O::GetMetadata, R, "A value of a machine's metadata"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/metadata/{key}", O::SetMetadata, W, "Sets a value of a machine's metadata"),
        route("DELETE", "/apps/{app_name}/machines/{machine_id}/metadata/{key}", O::DeleteMetadata, W, "Removes a value"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/exec", O::Exec, E, "Runs a command in a machine"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/ps", O::Processes, R, "The processes of a machine"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/logs", O::Logs, R, "What a machine has written, a JSON object a line; with follow=true also what it writes"),
        route("GET", "/apps/{app_name}/machines/{machine_id}/memory", O::Memory, R, "A machine's memory limit"),
        route("PUT", "/apps/{app_name}/machines/{machine_id}/memory", O::SetMemory, W, "Not possible with processes"),
        route("POST", "/apps/{app_name}/machines/{machine_id}/memory/reclaim", O::ReclaimMemory, W, "Not possible with processes"),
        route("GET", "/orgs/{org_slug}/machines", O::OrgMachines, R, "The machines of an org, page by page"),
        route("GET", "/orgs/{org_slug}/volumes", O::OrgVolumes, R, "The volumes of an org, page by page"),
        route("GET", "/apps/{app_name}/volumes", O::ListVolumes, R, "The volumes of an app"),
        route("POST", "/apps/{app_name}/volumes", O::CreateVolume, W, "Makes, forks or restores a volume"),
        route("GET", "/apps/{app_name}/volumes/{volume_id}", O::ShowVolume, R, "A volume"),
        route("PUT", "/apps/{app_name}/volumes/{volume_id}", O::UpdateVolume, W, "Changes how a volume is backed up"),
        route("DELETE", "/apps/{app_name}/volumes/{volume_id}", O::DeleteVolume, W, "Destroys a volume"),
        route("PUT", "/apps/{app_name}/volumes/{volume_id}/extend", O::ExtendVolume, W, "Makes a volume larger"),
        route("GET", "/apps/{app_name}/volumes/{volume_id}/snapshots", O::ListSnapshots, R, "The snapshots of a volume"),
        route("POST", "/apps/{app_name}/volumes/{volume_id}/snapshots", O::CreateSnapshot, W, "Makes a snapshot of a volume"),
        route("GET", "/apps/{app_name}/secrets", O::ListSecrets, R, "The secrets of an app"),
        route("POST", "/apps/{app_name}/secrets", O::UpdateSecrets, W, "Sets and removes secrets"),
        route("GET", "/apps/{app_name}/secrets/{secret_name}", O::ShowSecret, R, "A secret"),
        route("POST", "/apps/{app_name}/secrets/{secret_name}", O::SetSecret, W, "Sets a secret"),
        route("DELETE", "/apps/{app_name}/secrets/{secret_name}", O::DeleteSecret, W, "Removes a secret"),
        route("GET", "/apps/{app_name}/secretkeys", O::ListKeys, R, "The secret keys of an app"),
        route("GET", "/apps/{app_name}/secretkeys/{secret_name}", O::ShowKey, R, "A secret key"),
        route("POST", "/apps/{app_name}/secretkeys/{secret_name}", O::SetKey, W, "Sets a secret key"),
        route("DELETE", "/apps/{app_name}/secretkeys/{secret_name}", O::DeleteKey, W, "Removes a secret key"),
        route("POST", "/apps/{app_name}/secretkeys/{secret_name}/generate", O::GenerateKey, W, "Makes a secret key"),
        route("POST", "/apps/{app_name}/secretkeys/{secret_name}/encrypt", O::Encrypt, W, "Encrypts with a secret key"),
        route("POST", "/apps/{app_name}/secretkeys/{secret_name}/decrypt", O::Decrypt, W, "Decrypts with a secret key"),
        route("POST", "/apps/{app_name}/secretkeys/{secret_name}/sign", O::Sign, W, "Signs with a secret key"),
        route("POST", "/apps/{app_name}/secretkeys/{secret_name}/verify", O::Verify, W, "Verifies a signature of a secret key"),
        route("GET", "/platform/regions", O::Regions, R, "The regions of this host"),
        route("POST", "/platform/placements", O::Placements, R, "Where machines would go"),
        route("GET", "/apps/{app_name}/ip_assignments", O::ListIps, R, "The addresses of an app"),
        route("POST", "/apps/{app_name}/ip_assignments", O::AssignIp, W, "Gives an app an address"),
        route("DELETE", "/apps/{app_name}/ip_assignments/{ip}", O::ReleaseIp, W, "Takes an address back"),
        route("GET", "/apps/{app_name}/certificates", O::ListCertificates, R, "The certificates of an app"),
        route("POST", "/apps/{app_name}/certificates/acme", O::AcmeCertificate, W, "Notes a host name for an app"),
        route("POST", "/apps/{app_name}/certificates/custom", O::CustomCertificate, W, "Notes a host name with a certificate"),
        route("GET", "/apps/{app_name}/certificates/{hostname}", O::ShowCertificate, R, "A certificate"),
        route("DELETE", "/apps/{app_name}/certificates/{hostname}", O::DeleteCertificate, W, "Removes a certificate"),
        route("DELETE", "/apps/{app_name}/certificates/{hostname}/acme", O::DeleteAcme, W, "Removes a certificate"),
        route("DELETE", "/apps/{app_name}/certificates/{hostname}/custom", O::DeleteCustom, W, "Removes a certificate"),
        route("POST", "/apps/{app_name}/certificates/{hostname}/check", O::CheckCertificate, W, "Looks at a certificate again"),
        route("GET", "/apps/{app_name}/network_policies", O::ListPolicies, R, "The network policies of an app"),
        route("POST", "/apps/{app_name}/network_policies", O::CreatePolicy, W, "Keeps a network policy; nothing enforces it yet"),
        route("DELETE", "/apps/{app_name}/network_policies/{id}", O::DeletePolicy, W, "Removes a network policy"),
        route("GET", "/tokens/current", O::CurrentTokens, R, "What the shown token is"),
        route("POST", "/tokens/authenticate", O::Authenticate, R, "What a header's tokens are"),
        route("POST", "/tokens/authorize", O::Authorize, R, "Whether a header's token may do something"),
        route("POST", "/tokens/oidc", O::Oidc, W, "Only within a machine"),
        route("POST", "/tokens/kms", O::Kms, W, "Only within a machine"),
    ]
};
