package ec2

import (
	"encoding/xml"
	"fmt"
	"net/http"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// Error is a refusal in EC2's shape, also for [fakecloud.Fault].Err.
type Error struct {
	// Status is the HTTP status, Code EC2's own.
	Status        int
	Code, Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// CodeUnmodelled is the code of what EC2 would do and this fake does not.
const CodeUnmodelled = "FakeDoesNotModel"

// refuse is an ordinary refusal.
func refuse(code, format string, args ...any) *Error {
	return &Error{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

func unmodelled(format string, args ...any) *Error {
	return refuse(CodeUnmodelled, "this fake does not model "+format, args...)
}

func invalidValue(param string, value any, why string) *Error {
	return refuse("InvalidParameterValue", "Value (%v) for parameter %s is invalid. %s", value, param, why)
}

// ErrThrottled is what a call gets whose bucket is empty.
func ErrThrottled() *Error {
	return &Error{http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded."}
}

// ErrCapacity is what a launch or start gets where there is no room.
func ErrCapacity(zone, instanceType string) *Error {
	return &Error{
		http.StatusInternalServerError, "InsufficientInstanceCapacity",
		fmt.Sprintf("We currently do not have sufficient %s capacity in the Availability Zone you requested (%s). Our system will be working on provisioning additional capacity.", instanceType, zone),
	}
}

// ErrInstanceLimit is what a launch past the account's number of machines gets.
func ErrInstanceLimit() *Error {
	return refuse("InstanceLimitExceeded", "You have requested more instances than your current instance limit allows for the specified instance type.")
}

// ErrVCPULimit is what a launch past the account's number of processors gets.
func ErrVCPULimit(limit int) *Error {
	return refuse("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit of %d allows for the instance bucket that the specified instance type belongs to.", limit)
}

// ErrUnsupported is what a launch of a type in a zone without it gets.
func ErrUnsupported(zone, instanceType string) *Error {
	return refuse("Unsupported", "Your requested instance type (%s) is not supported in your requested Availability Zone (%s).", instanceType, zone)
}

// ErrInternal is a failure of EC2's own.
func ErrInternal() *Error {
	return &Error{http.StatusInternalServerError, "InternalError", "An internal error has occurred"}
}

// ErrUnavailable is an overloaded EC2.
func ErrUnavailable() *Error {
	return &Error{http.StatusServiceUnavailable, "Unavailable", "The service is unavailable. Please try again shortly."}
}

// ErrExpired is what a call with an expired token or an old date gets.
func ErrExpired() *Error { return refuse("RequestExpired", "Request has expired.") }

// ErrAuth is what a call with unknown credentials gets.
func ErrAuth() *Error {
	return &Error{http.StatusUnauthorized, "AuthFailure", "AWS was not able to validate the provided access credentials"}
}

// ErrUnauthorized is what a call gets that the credentials do not allow.
func ErrUnauthorized(action string) *Error {
	return &Error{http.StatusForbidden, "UnauthorizedOperation", "You are not authorized to perform this operation: ec2:" + action}
}

// write answers with the refusal.
func (e *Error) write(w http.ResponseWriter, requestID string) {
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(e.Status)
	_, _ = fmt.Fprintf(w, "%s<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>%s</RequestID></Response>",
		xml.Header, model.Escape(e.Code), model.Escape(e.Message), requestID)
}
