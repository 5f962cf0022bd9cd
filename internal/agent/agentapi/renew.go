package agentapi

// RenewRequest gives a machine a new certificate before its present one ends,
// all in PEM: a leaf of the same names and its key, signed with the key of the
// machine's own CA, and that CA's certificate, made anew too since it ends with
// the leaf. It must end later than what the agent has; what the agent has
// already is a success.
//
// It is the one call, beside health, that an agent serves to a caller whose
// certificate has ended, if that is the very one the agent shows itself. The
// answer is Empty. Existing agents answer 404.
type RenewRequest struct {
	CACert string `json:"ca_cert"`
	Cert   string `json:"cert"`
	Key    string `json:"key"`
}
