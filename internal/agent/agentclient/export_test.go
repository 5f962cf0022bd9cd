package agentclient

// ReadResult is for the fuzz target.
var ReadResult = readResult
