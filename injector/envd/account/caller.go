package account

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// Caller is the account that the Authorization header names (`Basic base64("user:")`), else the default user.
// The header is no proof of anything: who holds the sandbox's token may act as any user in it.
func (d *Directory) Caller(h http.Header) (Account, error) {
	return d.Lookup(basicUser(h.Get("Authorization")))
}

// basicUser returns the user of a Basic header, and "" for any other: the password is not looked at.
func basicUser(header string) string {
	const scheme = "basic "
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return ""
	}
	raw, err := base64.StdEncoding.DecodeString(header[len(scheme):])
	if err != nil {
		return ""
	}
	name, _, found := strings.Cut(string(raw), ":")
	if !found {
		return ""
	}
	return name
}
