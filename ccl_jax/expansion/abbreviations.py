"""Abbreviations that clinicians write, for phrases that the code system prints in full.

A small table of our own. Each entry has its source: a code of ICD-10-CM whose
terms print both the words and the abbreviation, or a published list in which
the entry was looked up, or else `USAGE`, general clinical usage. Left out on
purpose: abbreviations of several common meanings (MS, PE, RA, CP, CA, PT, AS,
MR, CF, HA, PD, AD, UC), those that are words ('ALL', 'HIT', 'DISH'), and those
on the Joint Commission's 'do not use' list (U, IU, QD, QOD, MS, MSO4, MgSO4).
"""

import re
from typing import NamedTuple

SIGN = 'SIGN guideline 97, abbreviations'
GATESHEAD = 'Newcastle Gateshead Information Network, Preferred Clinical Abbreviation List, release 5 (2018)'
AYRSHIRE = 'NHS Ayrshire & Arran, abbreviations used in guidelines and pathways'
GERIATRICS = 'Oxford Handbook of Geriatric Medicine, abbreviations'
GLASSBOX = 'Glass Box Medicine, Introduction to Medical Abbreviations (2018)'
EZMED = 'EZmed, Common Medical Abbreviations List'
MEDICINENET = 'MedicineNet, List of Common Medical Abbreviations & Terminology'
MEDICINEMBBS = 'MedicineMBBS, Use of abbreviations for medical and scientific terms (2009)'
USAGE = 'general clinical usage'


class Abbreviation(NamedTuple):
    """`words` as the code system has them, in lower case; `source` is a code or one of the constants above."""

    words: str
    short: str
    source: str


ABBREVIATIONS = tuple(
    Abbreviation(*entry)
    for entry in (
        # Printed by the standard itself, at the code.
        ('acquired immune deficiency syndrome', 'AIDS', 'B20'),
        ('body mass index', 'BMI', 'Z68'),
        ('brief resolved unexplained event', 'BRUE', 'R68.13'),
        ('central line-associated bloodstream infection', 'CLABSI', 'T80.211'),
        ('chronic kidney disease', 'CKD', 'N18'),
        ('diffuse or disseminated intravascular coagulation', 'DIC', 'D65'),
        ('eosinophilic granulomatosis with polyangiitis', 'EGPA', 'M30.1'),
        ('extended spectrum beta lactamase', 'ESBL', 'Z16.12'),
        ('extracorporeal membrane oxygenation', 'ECMO', 'Z92.81'),
        ('fever of unknown origin', 'FUO', 'R50.9'),
        ('heart failure with preserved ejection fraction', 'HFpEF', 'I50.3'),
        ('heart failure with reduced ejection fraction', 'HFrEF', 'I50.2'),
        ('heterozygous familial hypercholesterolemia', 'HeFH', 'E78.011'),
        ('homozygous familial hypercholesterolemia', 'HoFH', 'E78.010'),
        ('human immunodeficiency virus', 'HIV', 'B20'),
        ('hypereosinophilic syndrome', 'HES', 'D72.11'),
        ('hypoxic ischemic encephalopathy', 'HIE', 'P91.6'),
        ('inclusion body myositis', 'IBM', 'G72.41'),
        ('latent tuberculosis infection', 'LTBI', 'Z22.7'),
        ('metabolic dysfunction-associated steatohepatitis', 'MASH', 'K75.81'),
        ('metabolic dysfunction-associated steatotic liver disease', 'MASLD', 'K76.0'),
        ('methicillin resistant staphylococcus aureus', 'MRSA', 'A49.02'),
        ('methicillin susceptible staphylococcus aureus', 'MSSA', 'A49.01'),
        ('monoclonal gammopathy of undetermined significance', 'MGUS', 'D47.2'),
        ('multiple endocrine neoplasia', 'MEN', 'E31.2'),
        ('nonalcoholic fatty liver disease', 'NAFLD', 'K76.0'),
        ('nonalcoholic steatohepatitis', 'NASH', 'K75.81'),
        ('obesity hypoventilation syndrome', 'OHS', 'E66.2'),
        ('post-traumatic stress disorder', 'PTSD', 'F43.1'),
        ('post-transplant lymphoproliferative disorder', 'PTLD', 'D47.Z1'),
        ('postural orthostatic tachycardia syndrome', 'POTS', 'G90.A'),
        ('prostate specific antigen', 'PSA', 'R97.2'),
        ('respiratory syncytial virus', 'RSV', 'Z29.11'),
        ('severe combined immunodeficiency', 'SCID', 'D81.0'),
        ('slipped capital femoral epiphysis', 'SCFE', 'M93.0'),
        ('systemic inflammatory response syndrome', 'SIRS', 'R65.1'),
        ('systemic lupus erythematosus', 'SLE', 'D68.312'),
        ('total anomalous pulmonary venous return', 'TAPVR', 'Q26.2'),
        ('transfusion-related acute lung injury', 'TRALI', 'J95.84'),
        ('transient ischemic attack', 'TIA', 'Z86.73'),
        ('vaginal intraepithelial neoplasia', 'VAIN', 'N89.0'),
        ('vulvar intraepithelial neoplasia', 'VIN', 'N90.0'),
        # Diseases, from published lists.
        ('acute kidney injury', 'AKI', GERIATRICS),
        ('acute otitis media', 'AOM', USAGE),
        ('acute respiratory distress syndrome', 'ARDS', GLASSBOX),
        ('acute tubular necrosis', 'ATN', GERIATRICS),
        ('age-related macular degeneration', 'AMD', GERIATRICS),
        ('amyotrophic lateral sclerosis', 'ALS', GERIATRICS),
        ('attention-deficit hyperactivity disorder', 'ADHD', USAGE),
        ('anterior cruciate ligament', 'ACL', GATESHEAD),
        ('abdominal aortic aneurysm', 'AAA', GATESHEAD),
        ('atrial fibrillation', 'AF', GATESHEAD),
        ('atrial septal defect', 'ASD', USAGE),
        ('ventricular septal defect', 'VSD', USAGE),
        ('basal cell carcinoma', 'BCC', USAGE),
        ('squamous cell carcinoma', 'SCC', USAGE),
        ('benign prostatic hyperplasia', 'BPH', GLASSBOX),
        ('chronic lymphocytic leukemia', 'CLL', AYRSHIRE),
        ('chronic myeloid leukemia', 'CML', AYRSHIRE),
        ('chronic obstructive pulmonary disease', 'COPD', GLASSBOX),
        ('congestive heart failure', 'CHF', GLASSBOX),
        ('coronary artery disease', 'CAD', GLASSBOX),
        ('creutzfeldt-jakob disease', 'CJD', GERIATRICS),
        ('deep vein thrombosis', 'DVT', MEDICINENET),
        ('diabetes mellitus', 'DM', SIGN),
        ('type 1 diabetes mellitus', 'T1DM', USAGE),
        ('type 2 diabetes mellitus', 'T2DM', USAGE),
        ('end stage renal disease', 'ESRD', GLASSBOX),
        ('gastro-esophageal reflux disease', 'GERD', GLASSBOX),
        ('hypertension', 'HTN', MEDICINENET),
        ('inflammatory bowel disease', 'IBD', GLASSBOX),
        ('irritable bowel syndrome', 'IBS', GLASSBOX),
        ('ischemic heart disease', 'IHD', SIGN),
        ('low back pain', 'LBP', USAGE),
        ('myocardial infarction', 'MI', GLASSBOX),
        ('non-st elevation myocardial infarction', 'NSTEMI', 'I21.4'),
        ('st elevation myocardial infarction', 'STEMI', 'I21.0'),
        ('obstructive sleep apnea', 'OSA', GLASSBOX),
        ('osteoarthritis', 'OA', GLASSBOX),
        ('peripheral vascular disease', 'PVD', USAGE),
        ('supraventricular tachycardia', 'SVT', USAGE),
        ('ventricular tachycardia', 'VT', USAGE),
        ('tuberculosis', 'TB', USAGE),
        ('traumatic brain injury', 'TBI', USAGE),
        ('traumatic subarachnoid hemorrhage', 'traumatic SAH', USAGE),
        ('traumatic subdural hemorrhage', 'traumatic SDH', USAGE),
        ('upper respiratory infection', 'URI', GLASSBOX),
        ('urinary tract infection', 'UTI', GLASSBOX),
        ('cytomegaloviral', 'CMV', AYRSHIRE),
        ('carcinoma in situ', 'CIS', AYRSHIRE),
        ('shortness of breath', 'SOB', EZMED),
        ('motor-vehicle accident', 'MVA', EZMED),
        ('gunshot wound', 'GSW', EZMED),
        ('loss of consciousness', 'LOC', USAGE),
        ('foreign body', 'FB', EZMED),
        ('electrocardiogram', 'ECG', 'R94.31'),
        ('electroencephalogram', 'EEG', 'R94.01'),
        ('glasgow coma scale', 'GCS', USAGE),
        ('central nervous system', 'CNS', MEDICINEMBBS),
        ('epstein-barr virus', 'EBV', MEDICINEMBBS),
        # Shorthand of notes.
        ('personal history of', 'h/o', MEDICINENET),
        ('history of', 'h/o', MEDICINENET),
        ('family history of', 'FHx of', USAGE),
        ('fracture', 'fx', GLASSBOX),
        ('fractures', 'fxs', GLASSBOX),
        ('left', 'L', USAGE),
        ('right', 'R', USAGE),
        ('bilateral', 'b/l', USAGE),
        ('with', 'w/', USAGE),
        ('without', 'w/o', USAGE),
        ('secondary to', '2/2', USAGE),
        ('due to', 'd/t', USAGE),
        ('follow-up', 'f/u', USAGE),
        ('gastrointestinal', 'GI', USAGE),
    )
)

_SHORT = {entry.words: entry.short for entry in ABBREVIATIONS}
_PHRASES = re.compile(
    # 'Non-fracture' and 'left-sided' are words of their own; what was 'accidentally left in body' has no side.
    rf'(?<![\w-])(?<!accidentally )(?:{"|".join(sorted(map(re.escape, _SHORT), key=len, reverse=True))})(?![\w-])',
    re.IGNORECASE,
)


def abbreviated(text: str) -> str:
    """Returns a text with every phrase of the table abbreviated, the longest first; the text itself if it has none.

    'Type 2 diabetes mellitus with foot ulcer' -> 'T2DM w/ foot ulcer'.
    """
    return _PHRASES.sub(lambda match: _SHORT[match[0].lower()], text)
