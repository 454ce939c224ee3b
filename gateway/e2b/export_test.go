package e2b

// Patterns are the routes that ask for a key, as "METHOD /path/:parameter".
func Patterns() []string {
	var out []string
	for _, r := range (&server{}).routes() {
		out = append(out, r.method+" "+r.path)
	}
	for _, r := range unsupported {
		out = append(out, r.method+" "+r.path)
	}
	return out
}
