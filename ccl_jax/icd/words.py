"""What the words of index titles are: modifiers, beginnings of phrases, spellings of one another.

The rules are those of English and Latin word endings, with their exceptions as
they occur in the ICD-10-CM indexes.
"""

import functools
import re


def word_set(words: str) -> frozenset[str]:
    """Returns the set of the words or phrases that '|' or a line break separates."""
    return frozenset(filter(None, (word.strip() for word in re.split(r'[|\n]', words))))


# Words that begin a phrase which follows what it modifies ('with coma', 'due to fall').
_LINKS = word_set("""
    accompanied by|affecting|after|against|and|as|associated with|at|because of|before|between|by|caused by|causing
    complicated by|complicating|due to|during|entering through|following|for|from|in|in addition to
    in conjunction with|injuring|into|involving|like|not|not on|of|off|on|on board|onto|or|out of|over|prior to
    related to|resulting from|resulting in|secondary to|striking|through|to|under|until|upon|when|while|with|within
    without
""")
_LINK = re.compile(rf'(?:{"|".join(sorted(map(re.escape, _LINKS), key=len, reverse=True))})\b(?![-/])')

_ADJECTIVE = re.compile(
    r'\w*(?:al|linear|nuclear|(?<!e)ar|ic|icient|ary|ory|ous|ive|ible|able|ior|ian|ile|less|oid|ed|ating|istent|current|'
    r'ward|iform|genic)'
)
_ADJECTIVES = word_set("""
    acute|adult|adverse|benign|bovine|broad|burning|canine|chronic|closed|cold|common|complete|complex|compound
    current|dead|deadly|deep|dependent|diffuse|direct|dominant|double|dry|early|endocrine|equine|external|falling
    false|female|feminine|fifth|fine|firm|first|flying|former|fourth|free|fresh|frozen|great|gross|hard|heavy|high
    hollow|hot|human|incomplete|indirect|inner|intense|intermittent|large|larger|late|latent|left|liquid|long|loose
    low|lower|main|major|male|malignant|masculine|middle|mild|minor|mixed|motor|moving|nonmotor|old|open|outer|pale
    patent|permanent|postpartum|pregnant|private|profound|projected|public|quick|quiescent|rapid|raw|recent|red
    remittent|resistant|right|round|running|second|severe|sharp|short|simple|single|sixth|slow|small|soft|solid
    stiff|stolen|strong|subacute|sudden|third|thrown|tight|total|toxic|transient|transverse|true|upper|uterine
    violent|warm|wet|white|whole|wide|wild|wrong|young
""")
# Nouns that end like adjectives.
_NOUNS = word_set("""
    animal|arrival|barbital|burial|canal|cereal|chemical|chloral|coral|crystal|denial|disposal|festival|hospital
    jackal|mammal|manual|material|medal|metal|mineral|oval|pedal|phenobarbital|removal|renewal|rental|seal|signal|survival
    trial|urinal|veronal|withdrawal|bar|calcar|car|footwear|nightwear|underwear|wear|caviar|cellar|collar|ear|guitar
    jar|molar|pillar|scar|star|sugar|tar|war|analgesic|anesthetic|colic|panic|tic|antibiotic|antipyretic|antiseptic
    anorexic|arsenic|cathartic|clinic|cosmetic|diuretic|emetic|mechanic|music|narcotic|picnic|plastic|psychedelic
    tonic|topic|traffic|accessory|artillery|boundary|capillary|dispensary|dormitory|factory|history|infirmary
    laboratory|lavatory|library|memory|ovary|pituitary|reformatory|salary|secretary|territory|additive|adhesive
    carminative|derivative|dive|drive|explosive|fixative|hive|laxative|preservative|sedative|automobile|bile|missile
    mobile|pile|projectile|reptile|snowmobile|textile|tile|cable|crucible|mandible|table|vegetable|amphibian
    civilian|guardian|pedestrian|physician|technician|adenoid|alkaloid|arytenoid|celluloid|choroid|colloid|cuboid
    deltoid|ethmoid|hyoid|mastoid|opioid|scaphoid|sigmoid|sphenoid|steroid|thyroid|toxoid|trapezoid|xiphoid|award
    bed|bleed|breed|feed|forward|interior|moped|reed|seed|shed|sled|speed|steed|weed
""")
# Of the nouns, those that stand before a site as an adjective would ('sphenoid sinus').
_BEFORE_SITES = re.compile(r'accessory|\w+oid')
_STAGED = re.compile(r'(?:stage|grade|class|degree|group|grades|stages)\b|\d', re.IGNORECASE)
_TYPED = re.compile(r'type [\dIVX]+$|type [A-Z]$')
# Latin words that stand after the noun they modify ('diabetes mellitus').
_LATIN = re.compile(r'(?!virus|tetanus|fetus|pus|sinus|.*ous)[a-z]+(?:us|um|is|ae|ans|orum|arum)', re.IGNORECASE)
_SAME_BEGINNING = 4


@functools.lru_cache(maxsize=100_000)
def link_of(title: str) -> str:
    """Returns the words that begin a phrase at the beginning of `title` ('due to', 'with'), '' if there are none."""
    match = _LINK.match(title)
    return match[0] if match else ''


@functools.lru_cache(maxsize=100_000)
def is_adjective(title: str) -> bool:
    """Whether a title, by its last word, modifies the noun that it stands under rather than naming a thing."""
    last = title.split()[-1].casefold() if title.split() else ''
    if last in _NOUNS:
        return False
    if last.endswith(("'s", "s'")):
        return True
    return last in _ADJECTIVES or _ADJECTIVE.fullmatch(last.rpartition('-')[2]) is not None


def stands_before_site(title: str) -> bool:
    """Whether a modifier stands directly before the site that it modifies: 'thoracic esophagus', 'sphenoid sinus'."""
    return is_adjective(title) or _BEFORE_SITES.fullmatch(title) is not None


def is_latin_modifier(title: str) -> bool:
    return _LATIN.fullmatch(title) is not None


def follows_its_noun(title: str) -> bool:
    """Whether a modifier stands after its noun: 'stage 3', '20-39 mg/100 ml'; not 'type 2'."""
    return _STAGED.match(title) is not None


def precedes_its_noun(title: str) -> bool:
    return is_adjective(title) or _TYPED.match(title) is not None


def same_stem(one: str, other: str) -> bool:
    """Whether two titles are forms of one word: 'abdomen, abdominal', 'fall, falling', but not 'relaxant, muscle'."""
    first, second = one.split()[0].casefold(), other.split()[0].casefold()
    shortest = min(len(first), len(second), _SAME_BEGINNING)
    return shortest >= 3 and first[:shortest] == second[:shortest]


def uncapitalized(text: str) -> str:
    """Returns a phrase without the capital of its first word, unless that is an abbreviation or a name's genitive."""
    first = text.partition(' ')[0]
    if re.search(r'[A-Z0-9]', first[1:]) or re.search(r"['\u2019]s?$", first) or len(first) == 1:
        return text
    return text[:1].lower() + text[1:]
