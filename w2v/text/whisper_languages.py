"""Whisper's languages and special tokens, and which of them stand nearest to Common Voice's other languages."""

from w2v.text.locales import language_of

# In the order of their tokens (openai/whisper's tokenizer.py, MIT). Models before large-v3 have all but the last.
LANGUAGES = dict(
    pair.split("=")
    for pair in (
        "en=english,zh=chinese,de=german,es=spanish,ru=russian,ko=korean,fr=french,ja=japanese,pt=portuguese,"
        "tr=turkish,pl=polish,ca=catalan,nl=dutch,ar=arabic,sv=swedish,it=italian,id=indonesian,hi=hindi,fi=finnish,"
        "vi=vietnamese,he=hebrew,uk=ukrainian,el=greek,ms=malay,cs=czech,ro=romanian,da=danish,hu=hungarian,ta=tamil,"
        "no=norwegian,th=thai,ur=urdu,hr=croatian,bg=bulgarian,lt=lithuanian,la=latin,mi=maori,ml=malayalam,cy=welsh,"
        "sk=slovak,te=telugu,fa=persian,lv=latvian,bn=bengali,sr=serbian,az=azerbaijani,sl=slovenian,kn=kannada,"
        "et=estonian,mk=macedonian,br=breton,eu=basque,is=icelandic,hy=armenian,ne=nepali,mn=mongolian,bs=bosnian,"
        "kk=kazakh,sq=albanian,sw=swahili,gl=galician,mr=marathi,pa=punjabi,si=sinhala,km=khmer,sn=shona,yo=yoruba,"
        "so=somali,af=afrikaans,oc=occitan,ka=georgian,be=belarusian,tg=tajik,sd=sindhi,gu=gujarati,am=amharic,"
        "yi=yiddish,lo=lao,uz=uzbek,fo=faroese,ht=haitian creole,ps=pashto,tk=turkmen,nn=nynorsk,mt=maltese,"
        "sa=sanskrit,lb=luxembourgish,my=myanmar,bo=tibetan,tl=tagalog,mg=malagasy,as=assamese,tt=tatar,haw=hawaiian,"
        "ln=lingala,ha=hausa,ba=bashkir,jw=javanese,su=sundanese,yue=cantonese"
    ).split(",")
)
CODES = {name: code for code, name in LANGUAGES.items()}
# Whisper has older or wider codes for these.
SAME = {"jv": "jw", "nb": "no", "fil": "tl", "iw": "he", "in": "id", "ji": "yi", "cmn": "zh"}
# Languages whose words OpenAI's word times find without spaces.
UNSPACED = {"zh", "ja", "th", "lo", "my", "yue"}
# For languages without a token: one near them that has one, by family and script; where no relative is in Whisper, a
# neighbour whose script they share.
NEAR = dict(
    pair.split("=")
    for pair in (
        "ky=kk kaa=kk nog=kk alt=kk kjh=kk tyv=kk sah=kk cv=tt kum=tt crh=tr gag=tr ug=uz "  # Turkic
        "vot=et vep=fi krl=fi izh=fi mhr=ru mrj=ru myv=ru mdf=ru udm=ru kv=ru kpv=ru koi=ru bxr=mn bua=mn xal=mn "
        "ab=ru abq=ru ady=ru kbd=ru ce=ru av=ru xmf=ka lzz=ka sva=ka os=tg ckb=fa kmr=tr zza=tr diq=tr "
        "fy=nl li=nl nds=de gsw=de hsb=cs dsb=pl csb=pl szl=pl rue=uk ltg=lv ga=cy gd=cy gv=cy kw=br "
        "ast=es an=es mwl=pt rm=it lij=it sc=it scn=it fur=it vec=it nap=it lld=it rup=ro ia=it eo=it gn=es "
        "or=bn dv=si skr=ur hno=ur bho=hi mai=hi awa=hi sat=bn nan=zh yue=zh cdo=zh hak=zh wuu=zh "
        "kab=fr ti=am tig=am om=so rw=sw lg=sw xh=sn zu=sn nr=sn ss=sn st=sn nso=sn tn=sn ts=sn ve=sn ny=sn ig=yo "
        "ceb=tl ilo=tl hil=tl min=ms mad=jw ban=jw ace=ms sm=mi to=mi ty=mi rar=mi"
    ).split()
)

END, START, PREVIOUS, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>"
TASKS = ("translate", "transcribe")
NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # today's name, and that of older files
TIMESTAMPS = [f"<|{hundredths / 100:.2f}|>" for hundredths in range(0, 3002, 2)]  # 0 to 30 s


def special_tokens(languages: int = len(LANGUAGES)) -> list[str]:
    """What follows the text tokens, in OpenAI's order."""
    codes = [*list(LANGUAGES)[:languages], *TASKS]
    last = ["<|startoflm|>", PREVIOUS, NO_SPEECH[0], NO_TIMESTAMPS]
    return [END, START, *(f"<|{code}|>" for code in codes), *last, *TIMESTAMPS]


def candidates(lang: str) -> list[str]:
    """The codes under which Whisper may have a language, the best first. lang: a locale, a code, a token or a name."""
    name = lang.lower().removeprefix("<|").removesuffix("|>")
    base = language_of(name)
    found = ["yue" if name == "zh-hk" else None, base, SAME.get(base), CODES.get(name)]
    return [code for code in found if code]
