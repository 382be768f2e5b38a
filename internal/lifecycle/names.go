package lifecycle

import (
	"math/rand/v2"
	"strconv"
)

// Names for containers that nobody named: a quality and somebody who is
// remembered for ships, harbours and the sea.
var (
	adjectives = []string{
		"able", "amber", "brave", "bright", "brisk", "calm", "candid", "clear", "cosy", "curious", "daring", "deft",
		"eager", "early", "fair", "fleet", "fond", "frank", "free", "gentle", "glad", "golden", "grand", "hardy",
		"hopeful", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry", "mighty", "modest", "neat",
		"nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "ready", "robust",
		"salty", "serene", "sharp", "silent", "silver", "smart", "snug", "solid", "spry", "stable", "steady", "stout",
		"sturdy", "sunny", "swift", "tender", "tidy", "tranquil", "true", "trusty", "vivid", "warm", "wise", "witty",
	}
	surnames = []string{
		"adler", "amundsen", "baret", "barents", "beaufort", "bering", "bligh", "bonny", "bougainville", "brunel",
		"cabot", "carson", "cartier", "cochrane", "cook", "coram", "cousteau", "crowhurst", "dampier", "darling",
		"davis", "dias", "drake", "earle", "erikson", "falconer", "fitzroy", "flinders", "francis", "franklin",
		"frobisher", "gama", "gilbert", "halley", "harrison", "heyerdahl", "hudson", "joshua", "knox", "magellan",
		"maury", "mclean", "mercator", "moitessier", "nansen", "nelson", "nobile", "piccard", "polo", "pytheas",
		"raleigh", "ross", "scott", "shackleton", "slocum", "smeaton", "stark", "stevenson", "tasman", "tharp",
		"vancouver", "vespucci", "villiers", "weddell", "worsley", "yonge", "zheng",
	}
)

// randomName returns adjective_surname, with a digit from the third try on.
func randomName(try int) string {
	n := adjectives[rand.IntN(len(adjectives))] + "_" + surnames[rand.IntN(len(surnames))]
	if try > 1 {
		n += strconv.Itoa(rand.IntN(10))
	}
	return n
}
