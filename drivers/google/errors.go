//go:build !no_google

package google

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/api/googleapi"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// What the driver itself has to tell apart beside the kinds of package drivers.
var (
	// errPassing: the same call may work in a moment.
	errPassing = errors.New("the cloud has a passing problem")
	errBudget  = errors.New("the calls of this minute are used up")
	errExists  = errors.New("exists already")
	errInUse   = errors.New("in use")
	// errNotReady: it is on its way to another state.
	errNotReady = errors.New("not ready")
	// errWrongState: its state does not allow this.
	errWrongState = errors.New("not in this state")
)

// failure is an error of the cloud with the kinds it is of.
type failure struct {
	text  string
	kinds []error
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() []error { return f.kinds }

// fail makes one. A kind that is nil, or the cause, says nothing in the text.
func fail(text string, kinds ...error) error { return &failure{text, kinds} }

// explain gives an error of the vendor's client the kind it is of, and says what
// to do about it.
func explain(err error) error {
	var api *googleapi.Error
	if errors.Is(err, drivers.ErrAuth) {
		return err // no credentials: nothing was asked
	}
	if !errors.As(err, &api) {
		return fail(err.Error(), errPassing, err)
	}
	info, detail := errorInfo(api.Details)
	reason := info
	if len(api.Errors) > 0 && api.Errors[0].Reason != "" {
		reason = api.Errors[0].Reason
	}
	text := fmt.Sprintf("%s (%d %s)", strings.TrimSuffix(strings.TrimSpace(api.Message), "."), api.Code, reason)
	switch {
	case info == "resource_availability" || isStockout(reason, api.Message):
		return &drivers.CapacityError{Zone: detail["zone"], Hints: zonesIn(detail["zonesAvailable"]), Err: fail(text, err)}
	case api.Code == http.StatusTooManyRequests || api.Code == http.StatusForbidden && isRate(reason, info):
		after, _ := strconv.Atoi(api.Header.Get("Retry-After"))
		return &drivers.RateLimitError{After: time.Duration(after) * time.Second, Err: fail(text, err)}
	case api.Code == http.StatusUnauthorized:
		return fail(text+"; give credentials that are valid: account.json_path, or what `gcloud auth application-default login` makes", drivers.ErrAuth, err)
	case reason == "quotaExceeded":
		return fail(text+moreQuota, drivers.ErrQuota, err)
	case reason == "accessNotConfigured":
		return fail(text, drivers.ErrAuth, err)
	case api.Code == http.StatusForbidden:
		return fail(text+"; grant the runner's account roles/compute.instanceAdmin.v1, to images roles/compute.imageUser, and roles/iam.serviceAccountUser if machines have a service account", drivers.ErrAuth, err)
	case api.Code == http.StatusNotFound:
		return fail(text+keyHint(api.Message), drivers.ErrNotFound, err)
	case api.Code == http.StatusConflict && reason == "alreadyExists":
		return fail(text, errExists, err)
	case reason == "resourceInUseByAnotherResource":
		return fail(text, drivers.ErrInvalid, errInUse, err)
	case reason == "resourceNotReady":
		return fail(text, errNotReady, err)
	case reason == "unsupportedOperation":
		return fail(text, errWrongState, err)
	case api.Code == http.StatusNotImplemented:
		return fail(text, drivers.ErrInvalid, err)
	case api.Code >= http.StatusInternalServerError || api.Code == http.StatusRequestTimeout:
		return fail(text, errPassing, err)
	case api.Code == http.StatusConflict || api.Code == http.StatusPreconditionFailed:
		return fail(text, err) // somebody else changed it: transient
	default:
		return fail(text+keyHint(api.Message), drivers.ErrInvalid, err)
	}
}

// keys are the pool file's words for what the cloud's messages name; the first
// that fits is taken. The cloud has no code for them.
var keys = []struct{ text, key string }{
	{"find project", "account.project_id"},
	{"resource.machineType'", "machine_type (size, and a variant's own), which must be one of the zone's"},
	{"field 'zone'", "zone, and the zone the request asks for"},
	{".subnetwork'", "subnetwork (or networks)"},
	{".network'", "network (or networks)"},
	{"serviceAccounts[", "account.service_account_email"},
	{"initializeParams.diskType'", "disk.type"},
	{"initializeParams.diskSizeGb'", "disk.size"},
	{"initializeParams.sourceImage'", "image"},
}

// keyHint names the key to look at, "" if the message names no field of a machine
// that a key stands for.
func keyHint(message string) string {
	for _, k := range keys {
		if strings.Contains(message, k.text) {
			return "; check " + k.key
		}
	}
	return ""
}

// errorInfo is the reason and the metadata of the google.rpc.ErrorInfo in an
// answer's details.
func errorInfo(details []any) (reason string, metadata map[string]string) {
	metadata = map[string]string{}
	for _, d := range details {
		d, _ := d.(map[string]any)
		if kind, _ := d["@type"].(string); !strings.HasSuffix(kind, "google.rpc.ErrorInfo") {
			continue
		}
		reason, _ = d["reason"].(string)
		values, _ := d["metadata"].(map[string]any)
		for key, v := range values {
			metadata[key], _ = v.(string)
		}
	}
	return reason, metadata
}

// isRate says whether a refusal is about calls a minute, not about resources.
func isRate(reason, info string) bool {
	return reason == "rateLimitExceeded" || reason == "userRateLimitExceeded" || info == "RATE_LIMIT_EXCEEDED"
}

// isStockout says whether a code, or the text where the cloud gives no code, is
// about a lack of machines.
func isStockout(code, text string) bool {
	for _, known := range []string{"ZONE_RESOURCE_POOL_EXHAUSTED", "RESOURCE_POOL_EXHAUSTED", "POOL_CAPACITY_INSUFFICIENT", "STOCKOUT"} {
		if strings.HasPrefix(code, known) {
			return true
		}
	}
	return strings.Contains(text, "ZONE_RESOURCE_POOL_EXHAUSTED") || strings.Contains(text, "does not have enough resources available")
}

// zonesIn reads a list of hints.
func zonesIn(hints string) []string {
	return strings.FieldsFunc(hints, func(r rune) bool { return r == ',' || r == ' ' })
}

// failed is the error of an operation that is done, nil if it has none. Every
// entry counts for the text, the first that says what kind it is for the kind.
func failed(zone string, op *computepb.Operation) error {
	all := op.GetError().GetErrors()
	if len(all) == 0 {
		if op.GetHttpErrorStatusCode() < http.StatusBadRequest {
			return nil
		}
		return fail(fmt.Sprintf("%s failed: %s (%d)", op.GetOperationType(), op.GetHttpErrorMessage(), op.GetHttpErrorStatusCode()))
	}
	var texts []string
	var kind error
	for _, e := range all {
		texts = append(texts, fmt.Sprintf("%s (%s)", strings.TrimSuffix(strings.TrimSpace(e.GetMessage()), "."), e.GetCode()))
		if kind == nil {
			kind = kindOf(zone, e, int(op.GetHttpErrorStatusCode()))
		}
	}
	text := strings.Join(texts, "; ")
	switch k := kind.(type) { //nolint:errorlint // made by kindOf
	case nil:
		return fail(text)
	case *drivers.CapacityError:
		k.Err = errors.New(text)
		return k
	case *drivers.RateLimitError:
		k.Err = errors.New(text)
		return k
	default:
		if errors.Is(kind, drivers.ErrQuota) {
			text += moreQuota
		}
		return fail(text, kind)
	}
}

// moreQuota is what to do about a quota.
const moreQuota = "; ask for more quota, or lower the pool's limit"

// kindOf is the kind of one error of an operation, nil if it is transient.
func kindOf(zone string, e *computepb.Errors, status int) error {
	code := e.GetCode()
	var hints []string
	stockout := isStockout(code, e.GetMessage())
	for _, d := range e.GetErrorDetails() {
		if info := d.GetErrorInfo(); info.GetReason() == "resource_availability" {
			stockout = true
			hints = append(hints, zonesIn(info.GetMetadatas()["zonesAvailable"])...)
		}
	}
	switch {
	case stockout:
		return &drivers.CapacityError{Zone: zone, Hints: hints}
	case code == "QUOTA_EXCEEDED":
		return drivers.ErrQuota
	case code == "RATE_LIMIT_EXCEEDED" || status == http.StatusTooManyRequests:
		return &drivers.RateLimitError{}
	case code == "RESOURCE_NOT_FOUND":
		return drivers.ErrNotFound
	case code == "RESOURCE_ALREADY_EXISTS":
		return errExists
	case code == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE":
		return errors.Join(drivers.ErrInvalid, errInUse)
	case code == "RESOURCE_NOT_READY":
		return errNotReady
	case code == "UNSUPPORTED_OPERATION":
		return errWrongState
	case code == "PERMISSION_DENIED" || code == "PERMISSIONS_ERROR":
		return drivers.ErrAuth
	case status == http.StatusBadRequest:
		return drivers.ErrInvalid
	default:
		return nil
	}
}
