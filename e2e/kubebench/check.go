package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// held are the IDs that creates were answered with.
func held(answers []answer) (out []string) {
	for _, a := range answers {
		if a.Status == http.StatusCreated {
			out = append(out, a.ID)
		}
	}
	return out
}

// improper are the answers to creates that are neither a sandbox nor a refusal that says when to come back, and those that came late.
func improper(answers []answer, within time.Duration) (out []string) {
	for _, a := range answers {
		seconds, err := strconv.Atoi(a.RetryAfter)
		again := err == nil && seconds > 0
		switch {
		case a.Err != nil:
			out = append(out, fmt.Sprintf("a create had no answer: %v", a.Err))
		case a.Took > within:
			out = append(out, fmt.Sprintf("a create took %s, at most %s are allowed", a.Took.Round(time.Millisecond), within))
		case a.Status == http.StatusCreated && a.ID == "":
			out = append(out, "a create was answered 201 without an ID")
		case a.Status == http.StatusCreated:
		case a.Status != http.StatusTooManyRequests && a.Status != http.StatusServiceUnavailable:
			out = append(out, fmt.Sprintf("a create was answered %d: %s", a.Status, a.Body))
		case !again:
			out = append(out, fmt.Sprintf("a create was answered %d with Retry-After %q: %s", a.Status, a.RetryAfter, a.Body))
		}
	}
	return out
}

// doubles are the IDs that were handed out more than once.
func doubles(ids []string) (out []string) {
	ids = slices.Sorted(slices.Values(ids))
	for i := 1; i < len(ids); i++ {
		if ids[i] == ids[i-1] {
			out = append(out, fmt.Sprintf("sandbox %s was handed out twice", ids[i]))
		}
	}
	return slices.Compact(out)
}

// lost are the IDs that were handed out and that another replica, seen, or the store, claimed, does not know.
func lost(ids []string, seen map[string]int, claimed []string) (out []string) {
	for _, id := range ids {
		if seen[id] != http.StatusOK {
			out = append(out, fmt.Sprintf("sandbox %s was handed out, and another replica answers %d for it", id, seen[id]))
		}
		if !slices.Contains(claimed, id) {
			out = append(out, fmt.Sprintf("sandbox %s was handed out, and no claimed object has its ID", id))
		}
	}
	return out
}

// nobodys are the claimed objects whose IDs nobody was given.
func nobodys(ids, claimed []string) (out []string) {
	for _, id := range claimed {
		if !slices.Contains(ids, id) {
			out = append(out, fmt.Sprintf("sandbox %s is claimed, and nobody was given it", id))
		}
	}
	return out
}

// left are what replicas, listed, and the store, claimed, still have after everything was killed.
func left(listed map[string][]string, claimed []string) (out []string) {
	for replica, ids := range listed {
		for _, id := range ids {
			out = append(out, fmt.Sprintf("sandbox %s was killed, and %s lists it", id, replica))
		}
	}
	for _, id := range claimed {
		out = append(out, fmt.Sprintf("sandbox %s was killed, and its object is still there", id))
	}
	slices.Sort(out)
	return out
}
