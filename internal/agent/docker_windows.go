package agent

const dockerSocket = `\\.\pipe\docker_engine`
