package boot

import "strings"

// List is a flag of several values, for flag.FlagSet.Func. Blanks around them and empty ones do not count.
func List(into *[]string, separator string) func(string) error {
	return func(text string) error {
		*into = nil
		for _, item := range strings.Split(text, separator) {
			if item = strings.TrimSpace(item); item != "" {
				*into = append(*into, item)
			}
		}
		return nil
	}
}
