package gce

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Error is a refusal in the API's own shape: an answer with a status above 299,
// or, where an operation fails, one of its errors.
type Error struct {
	// Status is the HTTP status; Reason and Domain are those of the one entry of
	// errors[].
	Status         int
	Reason, Domain string
	Message        string
	// Location names the header or parameter, as far as the API says one.
	Location string
	// RPC is the canonical name ("RESOURCE_EXHAUSTED") where the API adds it.
	RPC string
	// Details are messages with "@type", as they stand in error.details.
	Details []map[string]any
	// Code is what an operation says instead of a reason: "QUOTA_EXCEEDED". When
	// empty it is made from the reason.
	Code string
	// OpDetails are the operation's errorDetails.
	OpDetails []map[string]any
	// RetryAfter is the header of that name in seconds, 0 for none.
	RetryAfter int
}

// Error is the message for people.
func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Reason, e.Message) }

// write answers a request.
func (e *Error) write(w http.ResponseWriter) {
	entry := map[string]any{"message": e.Message, "domain": e.domain(), "reason": e.Reason}
	if e.Location != "" {
		entry["location"] = e.Location
		entry["locationType"] = "header"
		if e.Location != "If-Match" && e.Location != "Authorization" {
			entry["locationType"] = "parameter"
		}
	}
	body := map[string]any{"code": e.Status, "message": e.Message, "errors": []any{entry}}
	if e.RPC != "" {
		body["status"] = e.RPC
	}
	if len(e.Details) > 0 {
		body["details"] = e.Details
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(e.RetryAfter))
	}
	writeJSON(w, e.Status, map[string]any{"error": body})
}

func (e *Error) domain() string {
	if e.Domain == "" {
		return "global"
	}
	return e.Domain
}

// operation is the entry of an operation's error.errors.
func (e *Error) operation() map[string]any {
	code := e.Code
	if code == "" {
		// alreadyExists becomes ALREADY_EXISTS.
		var b strings.Builder
		for _, r := range e.Reason {
			if r >= 'A' && r <= 'Z' {
				b.WriteByte('_')
			}
			b.WriteString(strings.ToUpper(string(r)))
		}
		code = b.String()
	}
	entry := map[string]any{"code": code, "message": e.Message}
	if e.Location != "" {
		entry["location"] = e.Location
	}
	if len(e.OpDetails) > 0 {
		entry["errorDetails"] = e.OpDetails
	}
	return entry
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // whoever went away does not read it
}

// badRequest is what the API's front end answers to what it cannot read.
func badRequest(field, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	violation := map[string]any{"description": message}
	if field != "" {
		violation["field"] = field
	}
	return &Error{
		Status: http.StatusBadRequest, Reason: "invalid", Message: message, RPC: "INVALID_ARGUMENT",
		Details: []map[string]any{{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []any{violation}}},
	}
}

// invalid refuses the value of a field.
func invalid(field string, value any, format string, args ...any) *Error {
	return &Error{
		Status: http.StatusBadRequest, Reason: "invalid",
		Message: fmt.Sprintf("Invalid value for field '%s': '%v'. %s", field, value, fmt.Sprintf(format, args...)),
	}
}

func required(field string) *Error {
	return &Error{Status: http.StatusBadRequest, Reason: "required", Message: fmt.Sprintf("Required field '%s' not specified", field)}
}

func notFound(resource string) *Error {
	return &Error{
		Status: http.StatusNotFound, Reason: "notFound", Code: "RESOURCE_NOT_FOUND",
		Message: fmt.Sprintf("The resource '%s' was not found", resource),
	}
}

func alreadyExists(resource string) *Error {
	return &Error{
		Status: http.StatusConflict, Reason: "alreadyExists", Code: "RESOURCE_ALREADY_EXISTS",
		Message: fmt.Sprintf("The resource '%s' already exists", resource),
	}
}

func notReady(resource string) *Error {
	return &Error{
		Status: http.StatusBadRequest, Reason: "resourceNotReady", Code: "RESOURCE_NOT_READY",
		Message: fmt.Sprintf("The resource '%s' is not ready", resource),
	}
}

func inUse(resource, by string) *Error {
	return &Error{
		Status: http.StatusBadRequest, Reason: "resourceInUseByAnotherResource", Code: "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
		Message: fmt.Sprintf("The %s is already being used by '%s'", resource, by),
	}
}

func conditionNotMet(what string) *Error {
	return &Error{
		Status: http.StatusPreconditionFailed, Reason: "conditionNotMet", Location: "If-Match", Code: "CONDITION_NOT_MET",
		Message: what,
	}
}

func unsupported(format string, args ...any) *Error {
	return &Error{
		Status: http.StatusBadRequest, Reason: "unsupportedOperation", Code: "UNSUPPORTED_OPERATION",
		Message: fmt.Sprintf(format, args...),
	}
}

// notModelled refuses what the API has and the fake has not, so that nobody
// relies on what would be ignored.
func notModelled(what string) *Error {
	return &Error{
		Status: http.StatusNotImplemented, Reason: "notImplemented", Code: "NOT_IMPLEMENTED",
		Message: fmt.Sprintf("The fake does not model %s", what),
	}
}

const service = "compute.googleapis.com"

func errorInfo(reason string, metadata map[string]string) map[string]any {
	return map[string]any{
		"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": service, "metadata": metadata,
	}
}

// Stockout is the answer 503 of a zone without room for a machine of that type.
// Hints are zones that have some. As an operation's error it has the code
// ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS.
func Stockout(zone, machineType string, hints ...string) *Error {
	available := slices.Clone(hints)
	slices.Sort(available)
	info := map[string]string{"vmType": machineType, "attachment": "", "zone": zone, "zonesAvailable": strings.Join(available, ",")}
	message := fmt.Sprintf("A %s VM instance is currently unavailable in the %s zone.", machineType, zone)
	if len(available) > 0 {
		message += fmt.Sprintf(" Consider trying your request in the %s zone(s), which currently has capacity to accommodate your request.", info["zonesAvailable"])
	}
	plain := maps.Clone(info)
	return &Error{
		Status: http.StatusServiceUnavailable, Reason: "backendError", Code: "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
		Message: fmt.Sprintf("The zone '%s' does not have enough resources available to fulfill the request. %s Alternatively, you can try your request again with a different VM hardware configuration or at a later time. '(resource type:compute)'.", zone, message),
		RPC:     "UNAVAILABLE",
		Details: []map[string]any{errorInfo("resource_availability", plain)},
		OpDetails: []map[string]any{
			{"help": map[string]any{"links": []any{map[string]any{"description": "Troubleshooting documentation", "url": "https://cloud.google.com/compute/docs/resource-error"}}}},
			{"localizedMessage": map[string]any{"locale": "en-US", "message": message}},
			{"errorInfo": map[string]any{"reason": "resource_availability", "domain": service, "metadatas": info}},
		},
	}
}

// PlainStockout is the older form, with no details and no hints.
func PlainStockout(zone string) *Error {
	e := Stockout(zone, "")
	e.Code, e.Details, e.OpDetails = "ZONE_RESOURCE_POOL_EXHAUSTED", nil, nil
	e.Message = fmt.Sprintf("The zone '%s' does not have enough resources available to fulfill the request.  Try a different zone, or try again later.", zone)
	return e
}

// QuotaExceeded is the answer 403 where a region's allowance is used up. As an
// operation's error it has the code QUOTA_EXCEEDED and its quotaInfo.
func QuotaExceeded(region, metric string, limit float64) *Error {
	return &Error{
		Status: http.StatusForbidden, Reason: "quotaExceeded", Domain: "usageLimits", Code: "QUOTA_EXCEEDED",
		Message: fmt.Sprintf("Quota '%s' exceeded.  Limit: %.1f in region %s.", metric, limit, region),
		OpDetails: []map[string]any{{"quotaInfo": map[string]any{
			"metricName": service + "/" + strings.ToLower(metric), "limitName": metric + "-per-project-region",
			"dimensions": map[string]any{"region": region}, "limit": limit,
		}}},
	}
}

// RateLimited is the answer 403 to more calls of a quota group than a minute
// allows.
func RateLimited(group Group) *Error {
	return &Error{
		Status: http.StatusForbidden, Reason: "rateLimitExceeded", Domain: "usageLimits", RPC: "PERMISSION_DENIED",
		Message: fmt.Sprintf("Quota exceeded for quota metric '%s' and limit '%[1]s per minute' of service '%s' for consumer 'project_number:%s'.", group, service, projectNumber),
		Details: []map[string]any{errorInfo("RATE_LIMIT_EXCEEDED", map[string]string{
			"service": service, "consumer": "projects/" + projectNumber, "quota_metric": service + "/" + string(group),
			"quota_unit": "1/min/{project}", "quota_location": "global",
		})},
	}
}

// TooManyRequests is the answer 429 of the API's front end.
func TooManyRequests() *Error {
	return &Error{
		Status: http.StatusTooManyRequests, Reason: "rateLimitExceeded", RPC: "RESOURCE_EXHAUSTED", RetryAfter: 1,
		Message: "Resource has been exhausted (e.g. check quota).",
	}
}

// Backend503 is a passing failure of the API itself.
func Backend503() *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Reason: "backendError", RPC: "UNAVAILABLE",
		Message: "Internal error. Please try again or contact Google Support.",
	}
}

// Internal500 is an answer 500.
func Internal500() *Error {
	return &Error{
		Status: http.StatusInternalServerError, Reason: "internalError", RPC: "INTERNAL",
		Message: "Internal error. Please try again or contact Google Support. (Code: '5E0A6F5C')",
	}
}

// PermissionDenied is the answer 403 to who lacks a permission
// ("compute.instances.create") for a resource ("projects/p/zones/z/instances/i").
func PermissionDenied(permission, resource string) *Error {
	return &Error{
		Status: http.StatusForbidden, Reason: "forbidden",
		Message: fmt.Sprintf("Required '%s' permission for '%s'", permission, resource),
	}
}

// APIDisabled is the answer 403 of a project that has not switched the API on.
func APIDisabled(project string) *Error {
	return &Error{
		Status: http.StatusForbidden, Reason: "accessNotConfigured", Domain: "usageLimits", RPC: "PERMISSION_DENIED",
		Message: fmt.Sprintf("Compute Engine API has not been used in project %s before or it is disabled. Enable it by visiting https://console.developers.google.com/apis/api/compute.googleapis.com/overview?project=%[1]s then retry.", project),
		Details: []map[string]any{errorInfo("SERVICE_DISABLED", map[string]string{"service": service, "consumer": "projects/" + project})},
	}
}

// TokenExpired is the answer 401 to an access token that is over.
func TokenExpired() *Error {
	return &Error{
		Status: http.StatusUnauthorized, Reason: "authError", Location: "Authorization", RPC: "UNAUTHENTICATED",
		Message: "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
		Details: []map[string]any{errorInfo("ACCESS_TOKEN_EXPIRED", map[string]string{"service": service})},
	}
}

// asError is an error of this package.
func asError(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = Internal500()
	}
	return e
}
