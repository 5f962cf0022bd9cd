package env

func groups() []group {
	return []group{
		serverGroup, storeGroup, poolGroup, commandGroup,
		bootGroup, cloudGroup, daemonGroup, dliteGroup,
	}
}

var serverGroup = group{
	title: "Server",
	variables: []Variable{
		{Name: "DRONE_DEBUG", Type: Bool, Default: "false", Meaning: "log decisions too", field: func(c *Config) any { return &c.Debug }},
		{Name: "DRONE_TRACE", Type: Bool, Default: "false", Meaning: "log everything, with the place in the source", field: func(c *Config) any { return &c.Trace }},
		{Name: "DRONE_HTTP_BIND", Default: ":3000", Meaning: "address the API listens on", field: func(c *Config) any { return &c.HTTPBind }},
		{
			Name: "DRONE_HTTP_ALLOW", Type: List, Default: "loopback and the host's own bridge networks", Computed: true,
			Meaning: "addresses and CIDRs that may call the API, in addition to the default; others get 403; `0.0.0.0/0` opens it to everybody knowingly; machines that are leased never may",
			field:   func(c *Config) any { return &c.HTTPAllow },
		},
		{
			Name: "DRONE_RUNNER_NAME", Default: "the host name in lower case", Computed: true,
			Meaning: "a label of this runner in names, tags and logs, and the TLS server name of new machines; the owner of machines is the controller id in the store, so another name orphans nothing",
			field:   func(c *Config) any { return &c.RunnerName },
		},
		{
			Name: "DRONE_RUNNER_HA", Type: Bool, Default: "false",
			Meaning: "new machines get the TLS server name `drone-runner-ha` instead of the runner's name; the name is stored with each machine", field: func(c *Config) any { return &c.HA },
		},
		{
			Name: "DRONE_RUNNER_VOLUMES", Type: List, Meaning: "`source:destination[:ro]` of the machine, mounted into every container step",
			field: func(c *Config) any { return &c.Volumes },
		},
		{Name: "ENV", Meaning: "value of the label `harness_env` of machines in a cloud", field: func(c *Config) any { return &c.Environment }},
		{
			Name: "DRONE_AGENT_DOWNLOAD_BIND", Meaning: "address of a second listener that serves the agent's binaries and their checksums to machines, and nothing else, for example `10.0.0.5:3080`; machines then download from there unless `DRONE_LITE_ENGINE_PATH` is set",
			field: func(c *Config) any { return &c.AgentBind },
		},
		{
			Name: "RUNNER_AGENT_DIR", Default: "the program's folder", Computed: true,
			Meaning: "folder of what that listener serves: `lite-engine-<os>-<arch>` or `runner-agent-<os>-<arch>`, with `.exe` on Windows, or `runner-agent` for this host's kind",
			field:   func(c *Config) any { return &c.AgentDir },
		},
		{Name: "DRONE_HTTP_PROTO", Meaning: "was read and never used by older runners", Status: Unused},
		{Name: "DRONE_HTTP_HOST", Meaning: "was read and never used by older runners", Status: Unused},
		{Name: "DRONE_HTTP_ACME", Meaning: "was read and never used by older runners", Status: Unused},
	},
}

var storeGroup = group{
	title: "Store",
	variables: []Variable{
		{Name: "DRONE_DATABASE_DRIVER", Default: "sqlite3", Meaning: "`sqlite3`, for one runner, or `postgres`, which several replicas may share; they need the same pool file and seal key", field: func(c *Config) any { return &c.DatabaseDriver }},
		{
			Name: "DRONE_DATABASE_DATASOURCE", Default: "`database.sqlite3` in the data directory", Computed: true, Secret: true,
			Meaning: "file of the SQLite database, relative to the working directory, or the address of the Postgres database; it moves the store only, not the data directory",
			field:   func(c *Config) any { return &c.DatabaseSource },
		},
		{Name: "DRONE_DELEGATE_DISTRIBUTED_MODE", Type: Bool, Default: "false", Meaning: "use the Postgres database of `DRONE_DISTRIBUTED_DATASOURCE`; there is no other difference", field: func(c *Config) any { return &c.Distributed }},
		{Name: "DRONE_DISTRIBUTED_DATASOURCE", Secret: true, Meaning: "address of the Postgres database in distributed mode", field: func(c *Config) any { return &c.DistributedSource }},
		{Name: "DRONE_DISTRIBUTED_DB_IAM_AUTH", Type: Bool, Default: "false", Meaning: "log in to the database with a token of the cloud", Status: Later},
		{Name: "DRONE_DISTRIBUTED_DB_REGION", Default: "us-east-1", Meaning: "region of that token", Status: Later},
		{
			Name: "RUNNER_SEAL_KEY", Default: "`seal.key` in the data directory, made at the first start", Computed: true, Secret: true,
			Meaning: "32 bytes as base64 or hex; seals the machines' private keys and exported variables in the store; a key that does not fit the store is an error, never replaced",
			field:   func(c *Config) any { return &c.SealKey },
		},
	},
}

var poolGroup = group{
	title: "Pools and requests",
	variables: []Variable{
		{Name: "DRONE_REUSE_POOL", Type: Bool, Default: "false", Meaning: "`false`: warm machines of an older recipe are drained at the start; `true`: they stay until they are replaced one by one; nothing is ever destroyed at a stop", field: func(c *Config) any { return &c.ReusePool }},
		{Name: "DRONE_SETTINGS_BUSY_MAX_AGE", Type: Int, Default: "24", Meaning: "hours after which a build's machine is destroyed, provided that no step runs on it and no call came for an hour", field: func(c *Config) any { return &c.BusyMaxAgeHours }},
		{Name: "DRONE_SETTINGS_FREE_MAX_AGE", Type: Int, Default: "72", Meaning: "hours after which a warm machine is replaced", field: func(c *Config) any { return &c.FreeMaxAgeHours }},
		{Name: "DRONE_FALLBACK_POOL_IDS", Type: List, Meaning: "pools to try after the one a request names, if it names no fallbacks itself", field: func(c *Config) any { return &c.FallbackPools }},
		{Name: "DLITE_POOL_MAP_BY_ACCOUNT_ID", Type: Accounts, Meaning: "other names of pools by account of the caller", field: func(c *Config) any { return &c.PoolMap }},
		{Name: "HEALTH_CHECK_HOTPOOL_TIMEOUT", Type: Duration, Default: "10s", Meaning: "how long a warm machine's agent may take to answer at a claim", field: func(c *Config) any { return &c.HealthHot }},
		{Name: "HEALTH_CHECK_HIBERNATED_TIMEOUT", Type: Duration, Default: "2m", Meaning: "the same after a resume", field: func(c *Config) any { return &c.HealthHibernated }},
		{Name: "HEALTH_CHECK_COLDSTART_TIMEOUT", Type: Duration, Default: "3m", Meaning: "the same for a machine made on demand", field: func(c *Config) any { return &c.HealthCold }},
		{Name: "HEALTH_CHECK_WINDOWS_TIMEOUT", Type: Duration, Default: "5m", Meaning: "the same for Windows", field: func(c *Config) any { return &c.HealthWindows }},
		{Name: "HEALTH_CHECK_CONNECTIVITY_DURATION", Type: Duration, Default: "3s", Meaning: "how long an agent tests its own connectivity", Status: Later},
		{Name: "SETUP_TIMEOUT", Type: Duration, Default: "30s", Meaning: "how long the agent's own setup may take, retries included", field: func(c *Config) any { return &c.SetupTimeout }},
		{Name: "START_STEP_TIMEOUT", Type: Duration, Default: "30s", Meaning: "how long an agent may take to accept a step, retries included", field: func(c *Config) any { return &c.StartStepTimeout }},
		{Name: "DRONE_LITE_ENGINE_ENABLE_MOCK", Type: Bool, Default: "false", Meaning: "for load tests: machines have a pretend agent whose steps only wait", field: func(c *Config) any { return &c.MockAgent }},
		{Name: "DRONE_LITE_ENGINE_MOCK_STEP_TIMEOUT_SECS", Type: Int, Default: "120", Meaning: "seconds a step of the pretend agent takes", field: func(c *Config) any { return &c.MockStepSeconds }},
		{Name: "DRONE_SETTINGS_FREE_CAPACITY_MAX_AGE", Type: Int, Default: "10", Meaning: "minutes a capacity reservation is kept", Status: Later},
		{Name: "DRONE_PURGER_TIME_MINUTES", Type: Int, Default: "15", Meaning: "needs no switch here: every row has its own time", Status: Unused},
		{Name: "DRONE_MIN_POOL_SIZE", Type: Int, Default: "1", Meaning: "warm machines of the pool made without a pool file", field: func(c *Config) any { return &c.MinPoolSize }},
		{Name: "DRONE_MAX_POOL_SIZE", Type: Int, Default: "2", Meaning: "limit of the pool made without a pool file", field: func(c *Config) any { return &c.MaxPoolSize }},
		{Name: "DRONE_ENABLE_AUTO_POOL", Type: Bool, Default: "false", Meaning: "of the Drone daemon", Status: Unused},
	},
}

var commandGroup = group{
	title: "Command line",
	intro: "Each belongs to a flag, which wins over it.",
	variables: []Variable{
		{Name: "DRONE_POOL_FILE", Flag: "--pool", Meaning: "the pool file of `delegate` and `check`"},
		{Name: "DRONE_ENV_FILE", Flag: "--envfile", Meaning: "a file with more variables"},
		{Name: "RUNNER_STRICT", Flag: "--strict", Type: Bool, Default: "false", Meaning: "`check` takes warnings for errors"},
		{Name: "RUNNER_JSON", Flag: "--json", Type: Bool, Default: "false", Meaning: "print results as JSON"},
		{Name: "RUNNER_DATA_DIR", Flag: "--data-dir", Default: "the pool file's directory, else the working directory", Computed: true, Meaning: "where store, seal key, admin socket, images and local machines live"},
		{Name: "RUNNER_ADMIN_SOCKET", Flag: "--socket", Default: "`admin.sock` in the data directory", Computed: true, Meaning: "the socket of a running runner, for the commands that ask it"},
		{Name: "RUNNER_BACKUP_FILE", Flag: "--out", Meaning: "the file that `backup` writes"},
		{Name: "RUNNER_NO_MACHINE", Flag: "--no-machine", Type: Bool, Default: "false", Meaning: "`doctor` makes no machine"},
		{Name: "RUNNER_DOCTOR_TIMEOUT", Flag: "--timeout", Type: Duration, Default: "15m", Meaning: "most time `doctor` and `setup` take for one pool"},
		{Name: "RUNNER_FAKECLOUD_LISTEN", Flag: "--listen", Default: "127.0.0.1:8090", Meaning: "address of the API of `fakecloud`"},
		{Name: "RUNNER_FAKECLOUD_NETWORK", Flag: "--network", Default: "127.88.0.0/16", Meaning: "loopback network of its machines"},
		{Name: "RUNNER_FAKECLOUD_REAL_TIMES", Flag: "--real-times", Type: Bool, Default: "false", Meaning: "it takes as long as the real cloud"},
		{Name: "RUNNER_FOLLOW", Flag: "--follow", Type: Bool, Default: "false", Meaning: "`logs` and `events` go on until they are stopped"},
		{Name: "RUNNER_LIMIT", Flag: "--limit", Type: Int, Default: "100", Meaning: "most rows that are listed"},
		{Name: "RUNNER_POOL", Flag: "--in-pool", Meaning: "list only what belongs to this pool"},
		{Name: "RUNNER_ALL", Flag: "--all", Type: Bool, Default: "false", Meaning: "list what has ended too"},
		{Name: "RUNNER_LEASE", Flag: "--lease", Meaning: "list only the events of this lease"},
		{Name: "RUNNER_AGENT_BINARY", Flag: "--agent", Default: "`runner-agent-linux-<arch>` or `runner-agent` beside the program, else on the PATH", Computed: true, Meaning: "the agent that is put into an image"},
		{Name: "RUNNER_IMAGE_UPDATE", Flag: "--update", Type: Bool, Default: "false", Meaning: "fetch the packages of an image again"},
		{Name: "RUNNER_KERNEL_URL", Flag: "--kernel-url", Meaning: "URL or file of the kernel's package, instead of apt"},
		{Name: "RUNNER_KERNEL_SHA256", Flag: "--kernel-sha256", Meaning: "its SHA-256"},
		{Name: "RUNNER_BUSYBOX_URL", Flag: "--busybox-url", Meaning: "URL or file of the busybox-static package, instead of apt"},
		{Name: "RUNNER_BUSYBOX_SHA256", Flag: "--busybox-sha256", Meaning: "its SHA-256"},
		{Name: "RUNNER_DEBIAN_MIRROR", Flag: "--mirror", Meaning: "where the image debian comes from, instead of Debian itself"},
		{Name: "RUNNER_DEBIAN_SUITE", Flag: "--suite", Default: "bookworm", Meaning: "the release of Debian the image debian is made of"},
		{Name: "RUNNER_IMAGE_SHA256", Flag: "--sha256", Meaning: "SHA-256 of the disk that is imported"},
		{Name: "RUNNER_IMAGE_MEMORY", Flag: "--memory", Type: Int, Default: "256", Meaning: "least memory, in MiB, of machines of the image that is imported"},
		{Name: "RUNNER_API_URL", Flag: "--url", Default: "http://127.0.0.1:3000", Meaning: "the runner that `tester` asks, and the other commands when there is no admin socket"},
		{Name: "RUNNER_TESTER_POOL", Flag: "--pool", Meaning: "the pool that `tester` asks for"},
		{Name: "RUNNER_TESTER_SCALE", Flag: "--scale", Type: Int, Default: "1", Meaning: "clients of `tester` at a time"},
		{Name: "RUNNER_TESTER_LOOP", Flag: "--loop", Type: Int, Default: "1", Meaning: "cycles of each client"},
		{Name: "RUNNER_TESTER_RATE", Flag: "--rate", Default: "0", Meaning: "cycles begun a second, whatever the answers take; 0: each client waits for its answer"},
		{Name: "RUNNER_TESTER_DURATION", Flag: "--duration", Type: Duration, Default: "0s", Meaning: "how long `tester` goes on, instead of a number of cycles"},
		{Name: "RUNNER_TESTER_COMMAND", Flag: "--command", Meaning: "a shell command to run as the step of each cycle; none: no step"},
		{Name: "RUNNER_TESTER_HOLD", Flag: "--hold", Type: Duration, Default: "0s", Meaning: "how long each cycle keeps its machine besides"},
		{Name: "RUNNER_TESTER_UNIQUE", Flag: "--unique", Type: Bool, Default: "false", Meaning: "check that no machine is given to two stages at a time"},
		{Name: "RUNNER_TESTER_TIMEOUT", Flag: "--timeout", Type: Duration, Default: "1000s", Meaning: "deadline of each request of `tester`"},
	},
}

var bootGroup = group{
	title: "Boot of cloud machines",
	intro: "What the boot scripts of machines in clouds are made of; see boot.md. Local machines bring their agent in the image.",
	variables: []Variable{
		{Name: "DRONE_LITE_ENGINE_PATH", Default: "the listener of `DRONE_AGENT_DOWNLOAD_BIND` if it is on, else the releases of this version", Computed: true, Meaning: "base address of the agent that machines in clouds download: `lite-engine-<os>-<arch>`, with `.exe` on Windows, and `SHA256SUMS` beside it; ours or an existing one", field: func(c *Config) any { return &c.Boot.AgentURL }},
		{Name: "DRONE_LITE_ENGINE_FALLBACK_PATH", Meaning: "second address of the same files", field: func(c *Config) any { return &c.Boot.AgentFallbackURL }},
		{Name: "RUNNER_AGENT_SHA256", Type: List, Meaning: "SHA-256 of those files, as `name=sum`; a machine looks up what is not named here in `SHA256SUMS`, and takes no file without a sum", field: func(c *Config) any { return &c.Boot.AgentSHA256 }},
		{Name: "DRONE_HARNESS_TEST_BINARY_URI", Default: "https://app.harness.io/storage/harness-download/harness-ti/split_tests", Meaning: "for own templates only, as all below: base address of split_tests", field: func(c *Config) any { return &c.Boot.HarnessTest }},
		{Name: "DRONE_PLUGIN_BINARY_URI", Default: "https://github.com/drone/plugin/releases/download/v3.9.7", Meaning: "base address of the plugin helper", field: func(c *Config) any { return &c.Boot.Plugin }},
		{Name: "DRONE_PLUGIN_BINARY_FALLBACK_URI", Default: "https://app.harness.io/storage/harness-download/harness-ti/harness-plugin/v3.9.7", Meaning: "second address of it", field: func(c *Config) any { return &c.Boot.PluginFallback }},
		{Name: "DRONE_HARNESS_AUTO_INJECTION_BINARY_URI", Default: "https://app.harness.io/storage/harness-download/harness-ti/auto-injection/1.0.19", Meaning: "base address of auto-injection", field: func(c *Config) any { return &c.Boot.AutoInjection }},
		{Name: "DRONE_ANNOTATIONS_CLI_URI", Default: "https://storage.googleapis.com/harness-ti/hcli/v0.23", Meaning: "base address of hcli", field: func(c *Config) any { return &c.Boot.Annotations }},
		{Name: "DRONE_ANNOTATIONS_CLI_FALLBACK_URI", Default: "https://app.harness.io/storage/harness-download/harness-ti/hcli/v0.23", Meaning: "second address of it", field: func(c *Config) any { return &c.Boot.AnnotationsFallback }},
		{Name: "DRONE_ENVMAN_BINARY_URI", Default: "https://github.com/bitrise-io/envman/releases/download/v2.5.6", Meaning: "base address of envman", field: func(c *Config) any { return &c.Boot.Envman }},
		{Name: "DRONE_ENVMAN_BINARY_FALLBACK_URI", Default: "https://app.harness.io/storage/harness-download/harness-ti/harness-envman/v2.5.6", Meaning: "second address of it", field: func(c *Config) any { return &c.Boot.EnvmanFallback }},
		{Name: "DRONE_TMATE_BINARY_URI", Default: "https://github.com/harness/tmate/releases/download/1.0", Meaning: "base address of tmate", field: func(c *Config) any { return &c.Boot.Tmate }},
		{Name: "DRONE_TMATE_BINARY_FALLBACK_URI", Default: "https://app.harness.io/storage/harness-download/harness-ti/harness-tmate/1.0", Meaning: "second address of it", field: func(c *Config) any { return &c.Boot.TmateFallback }},
		{Name: "DRONE_TMATE_ENABLED", Type: Bool, Default: "true", Meaning: "whether templates install tmate", field: func(c *Config) any { return &c.Boot.TmateEnabled }},
		{Name: "DRONE_TMATE_IMAGE", Default: "drone/drone-runner-docker:1", Meaning: "image of tmate's service", field: func(c *Config) any { return &c.Boot.TmateImage }},
		{Name: "DRONE_TMATE_HOST", Meaning: "its host", field: func(c *Config) any { return &c.Boot.TmateHost }},
		{Name: "DRONE_TMATE_PORT", Meaning: "its port", field: func(c *Config) any { return &c.Boot.TmatePort }},
		{Name: "DRONE_TMATE_FINGERPRINT_RSA", Meaning: "its RSA fingerprint", field: func(c *Config) any { return &c.Boot.TmateRSA }},
		{Name: "DRONE_TMATE_FINGERPRINT_ED25519", Meaning: "its Ed25519 fingerprint", field: func(c *Config) any { return &c.Boot.TmateEd25519 }},
		{Name: "DRONE_ENABLE_LE_DIAGNOSTICS", Type: Bool, Default: "false", Meaning: "whether templates keep a rolling packet capture", field: func(c *Config) any { return &c.Boot.Diagnostics }},
		{Name: "DRONE_EGRESS_NO_PROXY", Default: "localhost,127.0.0.1,169.254.169.254,172.16.0.0/12,10.0.0.0/8,.svc.cluster.local,.harness.io,harness.io", Meaning: "hosts that machines of pools with `egress_control` reach without their proxy", field: func(c *Config) any { return &c.Boot.EgressNoProxy }},
		{Name: "DRONE_EGRESS_PROXY_CA_CERT", Meaning: "PEM of the proxies' authority, the text itself; machines with a proxy trust it", field: func(c *Config) any { return &c.Boot.EgressCACert }},
		{
			Name: "DRONE_EGRESS_CA_BUNDLE_ENV_VARS", Type: List, Default: "SSL_CERT_FILE,REQUESTS_CA_BUNDLE,CURL_CA_BUNDLE,GIT_SSL_CAINFO",
			Meaning: "variables by which steps on such machines are told the file of all authorities, the proxies' included", field: func(c *Config) any { return &c.Boot.EgressBundleVars },
		},
		{
			Name: "DRONE_EGRESS_CA_EXTRA_ENV_VARS", Type: List, Default: "NODE_EXTRA_CA_CERTS",
			Meaning: "variables by which they are told the file of the proxies' authority alone", field: func(c *Config) any { return &c.Boot.EgressCAVars },
		},
	},
}

var cloudGroup = group{
	title: "Clouds",
	intro: "The variables of the clouds' own libraries (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, HTTPS_PROXY, …) work through those libraries.",
	variables: []Variable{
		{
			Name: "RUNNER_GOOGLE_ENDPOINT", Status: Used, Meaning: "another address of Compute Engine's API, for rehearsals against a fake; it is called without credentials",
			field: func(c *Config) any { return &c.GoogleEndpoint },
		},
		{
			Name: "RUNNER_AGENT_INGRESS", Type: List,
			Meaning: "addresses and CIDRs this runner calls agents from, never everybody: a firewall rule (google pools that name neither tags nor networks) or security group (amazon pools that name none) opens port 9079 to them; none: no rule is made, and the log says so",
			field:   func(c *Config) any { return &c.AgentIngress },
		},
		{Name: "AMAZON_ACCESS_KEY_ID", Secret: true, Meaning: "fills amazon pools that name no key"},
		{Name: "AMAZON_ACCESS_KEY_SECRET", Secret: true, Meaning: "its secret"},
		{Name: "AMAZON_SESSION_TOKEN", Secret: true, Meaning: "its session token"},
		{Name: "AWS_ACCESS_KEY_ID", Meaning: "read by AWS's library; also of the pool made without a pool file"},
		{Name: "AWS_SECRET_ACCESS_KEY", Secret: true, Meaning: "likewise; its secret"},
		{Name: "AWS_ACCESS_KEY_SECRET", Secret: true, Meaning: "of the pool made without a pool file"},
		{Name: "AZURE_CLIENT_ID", Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "AZURE_CLIENT_SECRET", Secret: true, Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "AZURE_SUBSCRIPTION_ID", Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "AZURE_TENANT_ID", Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "DIGITAL_OCEAN_PAT", Secret: true, Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "GOOGLE_PROJECT_ID", Meaning: "of the pool made without a pool file"},
		{Name: "GOOGLE_JSON_PATH", Meaning: "of the pool made without a pool file"},
		{Name: "GOOGLE_ZONE", Meaning: "of the pool made without a pool file"},
		{Name: "ANKA_VM_NAME", Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "ANKA_BUILD_VM_NAME", Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "ANKA_BUILD_URL", Meaning: "of the pool made without a pool file", Status: Later},
		{Name: "ANKA_BUILD_TOKEN", Secret: true, Meaning: "fills ankabuild pools that name none", Status: Later},
		{Name: "TART_VM_PASSWORD", Secret: true, Meaning: "nomad on macOS: password of the guest", Status: Later},
		{Name: "TART_MACHINE_PASSWORD", Secret: true, Meaning: "nomad on macOS: password of the host", Status: Later},
		{Name: "NOMAD_TOKEN", Secret: true, Meaning: "nomad: token", Status: Later},
		{Name: "NOMAD_CLIENT_DISCONNECT_TIMEOUT", Type: Duration, Default: "4m", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_RESOURCE_JOB_TIMEOUT", Type: Duration, Default: "15s", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_BYOI_INIT_TIMEOUT", Type: Duration, Default: "30m", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_INIT_TIMEOUT", Type: Duration, Default: "1m", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_DESTROY_TIMEOUT", Type: Duration, Default: "1m", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_GLOBAL_ACCOUNT", Default: "PAID_POOL", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_GLOBAL_ACCOUNT_MAC", Default: "GLOBAL_ACCOUNT_ID_MAC", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_DESTROY_RETRY_ATTEMPTS", Type: Int, Default: "1", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_MIN_CPU_MHZ", Type: Int, Default: "40", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_MIN_MEMORY_MB", Type: Int, Default: "20", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_MACHINE_FREQUENCY_MHZ", Type: Int, Default: "3500", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_MAC_MACHINE_FREQUENCY_MHZ", Type: Int, Default: "3200", Meaning: "nomad", Status: Later},
		{Name: "NOMAD_LARGE_BAREMETAL_CLASS", Default: "largebaremetal", Meaning: "nomad", Status: Later},
	},
}

var daemonGroup = group{
	title:  "Drone daemon",
	intro:  "Out of scope: accepted, so that one file can serve several programs.",
	status: Unused,
	variables: names(
		"DRONE_RPC_PROTO", "DRONE_RPC_HOST", "DRONE_RPC_SECRET", "DRONE_RPC_SKIP_VERIFY", "DRONE_RPC_DUMP_HTTP", "DRONE_RPC_DUMP_HTTP_BODY",
		"DRONE_UI_DISABLE", "DRONE_UI_USERNAME", "DRONE_UI_PASSWORD", "DRONE_UI_REALM",
		"DRONE_LIMIT_REPOS", "DRONE_LIMIT_EVENTS", "DRONE_LIMIT_TRUSTED", "DRONE_RUNNER_CAPACITY", "DRONE_RUNNER_MAX_PROCS",
		"DRONE_RUNNER_ENVIRON", "DRONE_RUNNER_ENV_FILE", "DRONE_RUNNER_SECRETS", "DRONE_RUNNER_LABELS", "DRONE_RUNNER_NETWORK_OPTS",
		"DRONE_ENV_PLUGIN_ENDPOINT", "DRONE_ENV_PLUGIN_TOKEN", "DRONE_ENV_PLUGIN_SKIP_VERIFY",
		"DRONE_SECRET_PLUGIN_ENDPOINT", "DRONE_SECRET_PLUGIN_TOKEN", "DRONE_SECRET_PLUGIN_SKIP_VERIFY",
		"DRONE_REGISTRY_PLUGIN_ENDPOINT", "DRONE_REGISTRY_PLUGIN_TOKEN", "DRONE_REGISTRY_PLUGIN_SKIP_VERIFY",
		"DRONE_DOCKER_CONFIG", "DRONE_DOCKER_STREAM_PULL",
	),
}

var dliteGroup = group{
	title:  "dlite and its scheduler",
	intro:  "Out of scope, as above.",
	status: Unused,
	variables: names(
		"DLITE_ACCOUNT_ID", "DLITE_ACCOUNT_SECRET", "DLITE_MANAGER_ENDPOINT", "DLITE_INTERNAL_MANAGER_ENDPOINT", "DLITE_NAME",
		"DLITE_PARALLEL_WORKERS", "DLITE_POLL_INTERVAL_MILLISECS",
		"DLITE_OUTBOXER_POLL_INTERVAL_SECS", "DLITE_OUTBOXER_RETRY_INTERVAL_SECS", "DLITE_OUTBOXER_MAX_RETRIES", "DLITE_OUTBOXER_BATCH_SIZE",
		"DLITE_SCHEDULER_UTILIZATION_TRACKER_INTERVAL_SECS", "DLITE_SCHEDULER_HISTORY_CLEANUP_INTERVAL_HOURS",
		"DLITE_SCHEDULER_HISTORY_CLEANUP_RETENTION_DAYS", "DLITE_SCHEDULER_SCALER_ENABLED", "DLITE_SCHEDULER_SCALER_WINDOW_DURATION_MINS",
		"DLITE_SCHEDULER_SCALER_LEAD_TIME_MINS", "DLITE_SCHEDULER_SCALER_DRY_RUN", "DLITE_SCHEDULER_SCALER_DISABLED_POOLS",
		"DLITE_SCHEDULER_SCALER_SCALE_PERCENT", "DLITE_SCHEDULER_SCALER_ACTIVE_IMAGE_LOOKBACK_DAYS",
		"DLITE_SCHEDULER_SCALER_RECENT_USAGE_LOOKBACK_DAYS", "DLITE_SCHEDULER_SCALER_RECENT_USAGE_MIN_INSTANCES",
		"DLITE_PREDICTOR_EMA_PERIOD", "DLITE_PREDICTOR_EMA_WEIGHT", "DLITE_PREDICTOR_MIN_INSTANCES",
		"DLITE_PREDICTOR_MAX_LOOKBACK_DAYS", "DLITE_PREDICTOR_TARGET_WEEKDAYS",
	),
}

func names(list ...string) []Variable {
	vars := make([]Variable, len(list))
	for i, n := range list {
		vars[i] = Variable{Name: n}
	}
	return vars
}

// RemovedNames lists names of old documentation that nothing reads any more.
func RemovedNames() []Removed {
	return []Removed{
		{"DRONE_OTEL_*", "the standard OTEL_* variables, once tracing is built in"},
		{"DRONE_SETTINGS_AWS_*", "the spec of a pool of type amazon in the pool file"},
		{"DRONE_NAMESPACE_*", "nothing; namespaces are gone"},
		{"DIGITALOCEAN_PAT", "DIGITAL_OCEAN_PAT"},
	}
}
