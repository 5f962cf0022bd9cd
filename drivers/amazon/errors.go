//go:build !no_amazon

package amazon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// codeOf is EC2's code of an error, "" if it is not EC2's.
func codeOf(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

// capacityCodes are what another zone, size or market may have room for.
var capacityCodes = map[string]bool{
	"InsufficientInstanceCapacity":         true,
	"InsufficientHostCapacity":             true,
	"InsufficientReservedInstanceCapacity": true,
	"InsufficientCapacity":                 true,
	"InsufficientFreeAddressesInSubnet":    true,
	"SpotMaxPriceTooLow":                   true,
	"Unsupported":                          true, // the type is not offered in the zone
}

var throttleCodes = map[string]bool{
	"RequestLimitExceeded": true, "Throttling": true, "ThrottlingException": true, "RequestThrottled": true,
	"RequestThrottledException": true, "EC2ThrottledException": true, "TooManyRequestsException": true, "SlowDown": true,
}

var authCodes = map[string]bool{
	"AuthFailure": true, "UnauthorizedOperation": true, "UnauthorizedAccess": true, "AccessDenied": true, "AccessDeniedException": true,
	"ExpiredToken": true, "ExpiredTokenException": true, "RequestExpired": true, "InvalidClientTokenId": true,
	"UnrecognizedClientException": true, "MissingAuthenticationToken": true, "IncompleteSignature": true, "SignatureDoesNotMatch": true,
	"InvalidSignatureException": true, "OptInRequired": true, "Blocked": true, "PendingVerification": true,
}

// hints are what an operator does about a code.
var hints = map[string]string{
	"AuthFailure":                         "check the access key of the pool's account, AMAZON_ACCESS_KEY_ID or the profile, and that it is one of this region",
	"InvalidClientTokenId":                "check the access key of the pool's account",
	"UnrecognizedClientException":         "check the access key of the pool's account",
	"MissingAuthenticationToken":          "give the pool's account an access key, or the host an instance profile",
	"SignatureDoesNotMatch":               "check account.access_key_secret and account.region",
	"IncompleteSignature":                 "check account.access_key_secret",
	"RequestExpired":                      "the session token has expired or this host's clock is wrong; renew the credentials or set the clock",
	"ExpiredToken":                        "renew the session token",
	"ExpiredTokenException":               "renew the session token",
	"OptInRequired":                       "enable the region for the account",
	"InstanceLimitExceeded":               "raise the account's quota of instances or lower the pool's limit",
	"VcpuLimitExceeded":                   "raise the account's quota of processors or lower the pool's limit",
	"VolumeLimitExceeded":                 "raise the account's quota of volumes",
	"MaxSpotInstanceCountExceeded":        "raise the account's quota of spot instances, or remove market_type",
	"VPCIdNotSpecified":                   "this region has no default VPC; set network.subnet_id, or network.zone_details with a subnet_id each",
	"InvalidSubnetID.NotFound":            "check network.subnet_id, network.zone_details and account.region",
	"InvalidVpcID.NotFound":               "check vpc and account.region",
	"InvalidAMIID.NotFound":               "check ami and account.region: ids of images differ between regions",
	"InvalidAMIID.Malformed":              "check ami",
	"InvalidKeyPair.NotFound":             "check account.key_pair_name and account.region",
	"InvalidGroup.NotFound":               "check network.security_groups and account.region",
	"InvalidGroupId.Malformed":            "check network.security_groups: they are ids, sg-…",
	"InvalidParameter":                    "check that network.security_groups and the subnet are of one VPC",
	"InvalidInstanceType":                 "check size, size_alt and account.region",
	"Unsupported":                         "the instance type is not offered in that zone; name other zones or another size",
	"InsufficientFreeAddressesInSubnet":   "use a larger subnet, or name others in network.zone_details",
	"UnsupportedHibernationConfiguration": "choose a size, image and volume that can hibernate, or hibernate: false",
	"ParameterNotFound":                   "check the path in ami and account.region",
}

// explain gives an error of the SDK its kind, and the operator what to do. call
// is the operation's name, for missing rights. Nil stays nil.
func (d *Driver) explain(err error, call string) error {
	if err == nil {
		return nil
	}
	if no, ok := errors.AsType[*credentialsError](err); ok {
		return fmt.Errorf("%w: %s: no credentials: set account.access_key_id and account.access_key_secret, AMAZON_ACCESS_KEY_ID and "+
			"AMAZON_ACCESS_KEY_SECRET, a profile, or give the host a role: %w", drivers.ErrAuth, call, no.err)
	}
	code := codeOf(err)
	short := d.short(err, call, code)
	switch {
	case code == "":
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s: %w", call, err)
		}
		if _, spent := errors.AsType[ratelimit.QuotaExceededError](err); spent {
			return &drivers.RateLimitError{Err: short}
		}
		return short
	case capacityCodes[code]:
		return &drivers.CapacityError{Err: short}
	case throttleCodes[code]:
		return &drivers.RateLimitError{Err: short}
	case authCodes[code]:
		return fmt.Errorf("%w: %w", drivers.ErrAuth, short)
	case code == "TagLimitExceeded" || code == "FilterLimitExceeded":
		return fmt.Errorf("%w: %w", drivers.ErrInvalid, short)
	case strings.HasSuffix(code, "LimitExceeded") || code == "MaxSpotInstanceCountExceeded":
		return fmt.Errorf("%w: %w", drivers.ErrQuota, short)
	case strings.HasPrefix(code, "InvalidInstanceID.") || strings.HasPrefix(code, "InvalidVolume.NotFound"):
		return fmt.Errorf("%w: %w", drivers.ErrNotFound, short)
	case permanent(code):
		return fmt.Errorf("%w: %w", drivers.ErrInvalid, short)
	}
	return short
}

// permanent says whether a code is about the request itself.
func permanent(code string) bool {
	for _, prefix := range []string{"Invalid", "Missing", "Unknown", "Malformed", "VPCIdNotSpecified", "UnsupportedHibernation", "ParameterNotFound", "Validation", "FakeDoesNotModel"} {
		if strings.HasPrefix(code, prefix) {
			return true
		}
	}
	return false
}

// short is the cloud's own word and what to do about it, without the SDK's
// long introduction, of which it keeps the cause.
func (d *Driver) short(err error, call, code string) error {
	if code == "" {
		return fmt.Errorf("%s: %w", call, err)
	}
	api, _ := errors.AsType[smithy.APIError](err)
	text := fmt.Sprintf("%s in %s: %s: %s", call, d.region, code, strings.TrimSpace(api.ErrorMessage()))
	switch hint := cmp.Or(hints[code], valueHint(code, api.ErrorMessage())); {
	case hint != "":
		text = strings.TrimSuffix(text, ".") + "; " + hint
	case code == "UnauthorizedOperation" || code == "AccessDeniedException" || code == "AccessDenied":
		text = strings.TrimSuffix(text, ".") + "; allow the action to the credentials' role or user, see docs/drivers.md"
	}
	return &cloudError{text, err}
}

// valueHint is what to do about a value that EC2 names in its message alone.
func valueHint(code, message string) string {
	switch {
	case code != "InvalidParameterValue":
		return ""
	case strings.Contains(message, "InstanceType"):
		return "check size, size_alt and account.region"
	case strings.Contains(strings.ToLower(message), "availability zone"):
		return "check the zone that was asked for, account.availability_zone and network.zone_details"
	}
	return ""
}

// cloudError is an error of the cloud in few words.
type cloudError struct {
	text string
	err  error
}

func (e *cloudError) Error() string { return e.text }
func (e *cloudError) Unwrap() error { return e.err }

// doubtful says whether a failed call may yet have been carried out: its answer
// was lost, or EC2 failed on the way.
func doubtful(err error) bool {
	code := codeOf(err)
	if code == "" {
		return true
	}
	answer, ok := errors.AsType[*smithyhttp.ResponseError](err)
	return (!ok || answer.HTTPStatusCode() >= http.StatusInternalServerError) && !capacityCodes[code] && !throttleCodes[code]
}
