//! The other proxies, each configured as its manual advises for speed: one worker, no log, connections kept both ways. With a
//! certificate they serve TLS, HTTP/2 and HTTP/1.1 by ALPN.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Running, await_port, free_port};

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens on loopback.
    pub port: u16,
    /// Its process.
    pub running: Running,
}

/// Files in PEM that a proxy serves TLS with.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The chain.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both in one file.
    pub both: PathBuf,
}

fn start(port: u16, command: &mut Command) -> io::Result<Proxy> {
    let running = Running(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    await_port(port)?;
    Ok(Proxy { port, running })
}

/// Connections that each may have.
const CONNECTIONS: usize = 4_096;

/// nginx in front of `upstream`; what it writes goes into `folder`.
///
/// # Errors
/// The system's; it is not there, or does not listen within ten seconds.
pub fn nginx(folder: &Path, upstream: u16, tls: Option<&Certificate>) -> io::Result<Proxy> {
    nginx_for(CONNECTIONS, folder, upstream, tls)
}

/// The same, for more connections.
///
/// # Errors
/// As [`nginx`].
pub fn nginx_for(
    connections: usize,
    folder: &Path,
    upstream: u16,
    tls: Option<&Certificate>,
) -> io::Result<Proxy> {
    let port = free_port()?;
    let (ssl, certificate) = tls.map_or_else(Default::default, |tls| {
        let (chain, key) = (tls.chain.display(), tls.key.display());
        let files = format!("ssl_certificate {chain}; ssl_certificate_key {key}; ssl_session_tickets off;");
        (" ssl http2", files)
    });
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.{port}.pid; error_log /dev/null crit;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};
  upstream workload {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port}{ssl} backlog=1024;
    {certificate}
    keepalive_requests 1000000000;
    location / {{ proxy_pass http://workload; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
  }}
}}\n",
        dir = folder.display()
    );
    let path = folder.join(format!("nginx.{port}.conf"));
    std::fs::write(&path, config)?;
    start(
        port,
        Command::new("nginx").arg("-c").arg(path).arg("-p").arg(folder),
    )
}

/// HAProxy in front of `upstream`; what it reads is written into `folder`.
///
/// # Errors
/// As [`nginx`].
pub fn haproxy(folder: &Path, upstream: u16, tls: Option<&Certificate>) -> io::Result<Proxy> {
    haproxy_for(CONNECTIONS, folder, upstream, tls)
}

/// The same, for more connections.
///
/// # Errors
/// As [`nginx`].
pub fn haproxy_for(
    connections: usize,
    folder: &Path,
    upstream: u16,
    tls: Option<&Certificate>,
) -> io::Result<Proxy> {
    let port = free_port()?;
    let certificate = tls.map_or_else(String::new, |tls| {
        format!(" ssl crt {} alpn h2,http/1.1 no-tls-tickets", tls.both.display())
    });
    let config = format!(
        "global
  nbthread 1
  maxconn {connections}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  http-reuse always
frontend in
  bind 127.0.0.1:{port}{certificate}
  default_backend workload
backend workload
  server only 127.0.0.1:{upstream}\n"
    );
    let path = folder.join(format!("haproxy.{port}.cfg"));
    std::fs::write(&path, config)?;
    start(port, Command::new("haproxy").arg("-db").arg("-f").arg(path))
}

/// Envoy in front of `upstream`. With an `authority`, the HTTP service there is asked about every request.
///
/// # Errors
/// As [`nginx`].
pub fn envoy(
    folder: &Path,
    upstream: u16,
    authority: Option<u16>,
    tls: Option<&Certificate>,
) -> io::Result<Proxy> {
    let port = free_port()?;
    let cluster = |name: &str, port: u16| {
        format!(
            "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n"
        )
    };
    let asks = authority.map_or_else(String::new, |authority| {
        format!(
            "          - name: envoy.filters.http.ext_authz
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              http_service:
                server_uri: {{ uri: 'http://127.0.0.1:{authority}', cluster: authority, timeout: 5s }}\n"
        )
    });
    let socket = tls.map_or_else(String::new, |tls| {
        format!(
            "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - certificate_chain: {{ filename: {} }}
              private_key: {{ filename: {} }}\n",
            tls.chain.display(),
            tls.key.display()
        )
    });
    let config = format!(
        "static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: workload }} }}]
          http_filters:
{asks}          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
{socket}  clusters:\n{}{}",
        cluster("workload", upstream),
        authority.map_or_else(String::new, |authority| cluster("authority", authority))
    );
    let path = folder.join(format!("envoy.{port}.yaml"));
    std::fs::write(&path, config)?;
    let mut command = Command::new("envoy");
    command
        .args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "off",
            "-c",
        ])
        .arg(path);
    start(port, &mut command)
}
